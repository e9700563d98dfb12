//! The files of the operators' console, as they are in `clients/console`.

use axum::http::header;
use axum::response::{IntoResponse as _, Response};

use crate::http_api;

const HTML: &str = include_str!("../../../clients/console/index.html");

/// What the browser lets the console do; index.html says the same for other
/// hosts.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; \
     connect-src http: https: ws: wss:; base-uri 'none'; form-action 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

/// The file at a path: with any prefix, as the APIs have it, for a proxy that
/// leaves it on.
pub fn file(path: &str) -> Option<Response> {
    let (_, name) = path.rsplit_once('/')?;
    let (content_type, text) = match name {
        "" if !http_api::is_route(path) => ("text/html; charset=utf-8", HTML),
        "console.css" => (
            "text/css; charset=utf-8",
            include_str!("../../../clients/console/console.css"),
        ),
        "console.js" => (
            "text/javascript; charset=utf-8",
            include_str!("../../../clients/console/console.js"),
        ),
        "logstream.js" => (
            "text/javascript; charset=utf-8",
            include_str!("../../../clients/js/logstream.js"),
        ),
        _ => return None,
    };
    let headers = [
        (header::CONTENT_TYPE, content_type),
        // Asked for each time: after an upgrade no file is an old one.
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Some((headers, text).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_the_policy_too() {
        assert!(HTML.contains(&format!("content=\"{POLICY}\"")));
    }
}
