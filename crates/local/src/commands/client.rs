//! A deployment's HTTP API.

use std::error::Error as _;
use std::time::Duration;

use logstream_core::{Level, backoff};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LINK, RETRY_AFTER};
use reqwest::{Method, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use super::Failure;
use super::output::Message;

/// The longest wait for an answer. The gateway gives up after 30 s, and the
/// functions after 3.
const PATIENCE: Duration = Duration::from_secs(15);

/// A frame has at most 128 KiB.
const MAX_FRAME: usize = 1 << 20;

/// The most messages of one answer of `recent-logs`.
const MAX_PAGE: usize = 10_000;

/// How often a request for reading is made.
const TRIES: usize = 3;

/// As much of an error's text as is shown.
const MAX_TEXT: usize = 300;

pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A deployment.
pub struct Client {
    http: Url,
    ws: Url,
    key: Option<HeaderValue>,
    agent: reqwest::Client,
}

/// Why a request did not do what it should.
pub struct Trouble {
    /// What to tell.
    pub text: String,
    /// The status, if there was an answer.
    pub status: Option<u16>,
    /// Another try may help, after this time.
    pub again: Option<Duration>,
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        Self::Failed(trouble.text)
    }
}

impl Client {
    pub fn new(
        http: Option<String>,
        ws: Option<String>,
        key: Option<String>,
    ) -> Result<Self, Failure> {
        let http = http.as_deref().unwrap_or("http://127.0.0.1:3000");
        let http = address(http, ["http", "https"])?;
        let ws = match ws {
            Some(ws) => address(&ws, ["ws", "wss"])?,
            None => {
                let ws = http.as_str().replacen("http", "ws", 1);
                address(&ws, ["ws", "wss"])?
            }
        };
        let key = match key.as_deref().map(str::trim) {
            None | Some("") => None,
            Some(key) => {
                // The error says nothing of the key.
                let wrong = || Failure::Usage("the key has characters that no key has".to_owned());
                if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
                    return Err(wrong());
                }
                let bearer = HeaderValue::try_from(format!("Bearer {key}"));
                let mut bearer = bearer.map_err(|_| wrong())?;
                bearer.set_sensitive(true);
                Some(bearer)
            }
        };
        // reqwest and tokio-tungstenite bring none.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let agent = reqwest::Client::builder()
            .timeout(PATIENCE)
            .user_agent(concat!("logstream/", env!("CARGO_PKG_VERSION")))
            // Followed, a POST becomes a GET, and the key goes elsewhere.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| Failure::Failed(root(&error)))?;
        Ok(Self {
            http,
            ws,
            key,
            agent,
        })
    }

    /// Connects a viewer.
    pub async fn connect(&self, sites: &[String], level: Level) -> Result<Socket, Trouble> {
        let mut url = self.ws.clone();
        add(&mut url, sites, level);
        let place = place(&self.ws);
        let failed = |text| Trouble {
            text,
            status: None,
            again: Some(Duration::ZERO),
        };
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_FRAME))
            .max_frame_size(Some(MAX_FRAME));
        let connecting = connect_async_with_config(url.as_str(), Some(config), true);
        match timeout(PATIENCE, connecting).await {
            Ok(Ok((socket, _))) => Ok(socket),
            Ok(Err(tungstenite::Error::Http(answer))) => {
                let status = answer.status().as_u16();
                let body = answer.body().as_deref().unwrap_or_default();
                Err(Trouble {
                    text: refusal(place, status, &String::from_utf8_lossy(body)),
                    status: Some(status),
                    again: may_pass(status).then_some(Duration::ZERO),
                })
            }
            Ok(Err(tungstenite::Error::Io(error))) => {
                Err(failed(format!("cannot reach {place}: {error}")))
            }
            Ok(Err(error)) => Err(failed(format!("cannot connect to {place}: {error}"))),
            Err(_) => Err(failed(no_answer(place))),
        }
    }

    /// Posts to newlog.
    pub async fn post(&self, body: String) -> Result<(), Trouble> {
        let mut request = self.agent.post(self.url("newlog")).body(body);
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, key);
        }
        self.answer(request).await.map(drop)
    }

    /// The messages of the last `age`, all of them or the newest `limit`, the
    /// oldest first.
    pub async fn recent(
        &self,
        sites: &[String],
        level: Level,
        age: Duration,
        limit: Option<usize>,
    ) -> Result<Vec<Message>, Trouble> {
        let mut url = self.url("recent-logs");
        add(&mut url, sites, level);
        let mut query = url.query_pairs_mut();
        // By the server's clock.
        query.append_pair("max_age_seconds", &age.as_secs().to_string());
        if let Some(limit) = limit {
            query.append_pair("limit", &limit.min(MAX_PAGE).to_string());
        }
        drop(query);
        let mut messages: Vec<Message> = Vec::new();
        let limit = limit.unwrap_or(usize::MAX);
        while messages.len() < limit {
            let (page, headers) = self.get::<Vec<Message>>(url.clone()).await?;
            messages.extend(page);
            match next(&headers).and_then(|link| url.join(link).ok()) {
                Some(link) => url = link,
                None => break,
            }
        }
        messages.truncate(limit);
        if let [site] = sites {
            for message in &mut messages {
                message.site.clone_from(site);
            }
        }
        messages.reverse();
        Ok(messages)
    }

    /// The ids of the connections that watch a site.
    pub async fn online(&self, site: &str) -> Result<Vec<String>, Trouble> {
        #[derive(Deserialize)]
        struct Connection {
            #[serde(rename = "ConnectionID")]
            id: String,
        }
        let mut url = self.url("onlineusers");
        url.query_pairs_mut().append_pair("site", site);
        let (connections, _) = self.get::<Vec<Connection>>(url).await?;
        Ok(connections.into_iter().map(|each| each.id).collect())
    }

    /// Makes a request for reading, and again if the server asks for that.
    async fn get<T: DeserializeOwned>(&self, url: Url) -> Result<(T, HeaderMap), Trouble> {
        let mut waits = backoff(Duration::from_millis(500), Duration::from_secs(4));
        let mut tries = 1;
        loop {
            let request = self.agent.request(Method::GET, url.clone());
            match self.answer(request).await {
                Ok((body, headers)) => {
                    let value = serde_json::from_str(&body).map_err(|error| Trouble {
                        text: format!(
                            "{} answers what is not expected: {error}",
                            place(&self.http)
                        ),
                        status: None,
                        again: None,
                    })?;
                    return Ok((value, headers));
                }
                Err(Trouble {
                    status: Some(_),
                    again: Some(pause),
                    ..
                }) if tries < TRIES => {
                    tries += 1;
                    tokio::time::sleep(pause + waits.next().unwrap_or_default()).await;
                }
                Err(trouble) => return Err(trouble),
            }
        }
    }

    async fn answer(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<(String, HeaderMap), Trouble> {
        let place = place(&self.http);
        let unreachable = |error: &reqwest::Error| Trouble {
            text: if error.is_timeout() {
                no_answer(place)
            } else {
                format!("cannot reach {place}: {}", root(error))
            },
            status: None,
            again: Some(Duration::ZERO),
        };
        let answer = request.send().await.map_err(|error| unreachable(&error))?;
        let status = answer.status().as_u16();
        let headers = answer.headers().clone();
        let body = answer.text().await.map_err(|error| unreachable(&error))?;
        if status == 200 {
            return Ok((body, headers));
        }
        let pause = headers
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok());
        let pause = pause.and_then(|value| value.parse().ok()).unwrap_or(0);
        Err(Trouble {
            text: refusal(place, status, &body),
            status: Some(status),
            again: may_pass(status).then_some(Duration::from_secs(pause.min(60))),
        })
    }

    fn url(&self, route: &str) -> Url {
        let mut url = self.http.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push(route);
        }
        url
    }
}

/// Whether a status is one after which the same request may succeed.
fn may_pass(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500..)
}

/// What an answer with an error says.
fn refusal(place: &str, status: u16, body: &str) -> String {
    #[derive(Deserialize)]
    struct Body {
        message: String,
    }
    let text = match serde_json::from_str(body) {
        Ok(Body { message }) => message,
        // A page of a proxy.
        Err(_) if body.trim_start().starts_with('<') => String::new(),
        Err(_) => body.trim().to_owned(),
    };
    let text: String = text.chars().take(MAX_TEXT).collect();
    match text.as_str() {
        "" => format!("{place} answers {status}"),
        text => format!("{place} answers {status}: {text}"),
    }
}

/// What a chain of errors began with: `Connection refused (os error 111)`.
fn root(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    text
}

/// Adds what both APIs call the same.
fn add(url: &mut Url, sites: &[String], level: Level) {
    let mut query = url.query_pairs_mut();
    for site in sites {
        query.append_pair("site", site);
    }
    if level != Level::Debug {
        query.append_pair("level", level.name());
    }
}

/// An address as it was given.
fn place(url: &Url) -> &str {
    url.as_str().trim_end_matches('/')
}

fn no_answer(place: &str) -> String {
    format!("no answer from {place} within {} s", PATIENCE.as_secs())
}

/// The address of the next page.
fn next(headers: &HeaderMap) -> Option<&str> {
    let link = headers.get(LINK)?.to_str().ok()?;
    Some(link.strip_prefix('<')?.split_once('>')?.0)
}

/// Reads an address, with or without a slash at its end.
fn address(text: &str, [plain, secure]: [&str; 2]) -> Result<Url, Failure> {
    let url = Url::parse(text.trim_end_matches('/')).ok();
    url.filter(|url| {
        [plain, secure].contains(&url.scheme())
            && url.has_host()
            // They would be in errors.
            && url.username().is_empty()
            && url.password().is_none()
    })
    .ok_or_else(|| {
        let given = if text.contains('@') {
            "without a user or a password".to_owned()
        } else {
            format!("not '{text}'")
        };
        Failure::Usage(format!(
            "expected an address such as {plain}://127.0.0.1:3000 or {secure}://logs.example.org, {given}"
        ))
    })
}
