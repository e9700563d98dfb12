//! Who may send messages: everybody, or only who has a key for the site.
//!
//! A deployment knows a key by its SHA-256 hash alone. A hash without salt and
//! stretching is enough, because a key is 32 random bytes and cannot be
//! guessed.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lambda_http::Request;
use lambda_http::http::header::AUTHORIZATION;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::api_gateway::connection_id;
use crate::config::ConfigError;
use crate::{Error, message};

/// The environment variable with the entries; empty lets everybody send.
const VARIABLE: &str = "PUBLISHER_KEYS";

/// What stands for all sites in an entry.
const ALL_SITES: &str = "*";

/// What a site's name may hold in an entry as it is.
const SITE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The keys with which messages may be sent. Without any, everybody may send.
#[derive(Clone, Default, Debug)]
pub struct Publishers(Vec<Publisher>);

/// A key that may be used for some sites: `name:site,site:sha256` in hex, where
/// a site is percent-encoded (RFC 3986) and `*` is all sites.
#[derive(Clone, Debug)]
pub struct Publisher {
    name: String,
    /// `None` for all.
    sites: Option<Vec<String>>,
    sha256: [u8; 32],
}

/// An entry that cannot be read, with its place. Never its text: somebody may
/// have pasted the key itself.
#[derive(Debug, thiserror::Error)]
#[error("publisher key {place}: {reason}")]
pub struct EntryError {
    place: usize,
    reason: &'static str,
}

impl Publishers {
    /// The entries in the function's environment.
    ///
    /// # Errors
    /// [`ConfigError`] when the variable is not set, which would let everybody
    /// send, or cannot be read.
    pub fn from_env() -> Result<Self, ConfigError> {
        let entries = std::env::var(VARIABLE).map_err(|_| ConfigError::Missing(VARIABLE))?;
        entries
            .parse()
            .map_err(|error: EntryError| ConfigError::Malformed(VARIABLE, error.to_string()))
    }

    /// Whether everybody may send.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Finds whose key a request has: in the header `Authorization` over HTTP
    /// (`Bearer KEY`, RFC 6750), in the field `key` of a frame.
    ///
    /// # Errors
    /// [`Error::Unauthorized`] when there are keys, and it has none of them.
    pub fn authenticate(&self, request: &Request) -> Result<Permission<'_>, Error> {
        if self.0.is_empty() {
            return Ok(Permission(None));
        }
        let is_frame = connection_id(request).is_some();
        let key = if is_frame {
            message::key(request.body())
        } else {
            bearer(request).map(str::to_owned)
        };
        let sent = key.as_deref().map(hash);
        // All are compared, each in constant time, so that the time of an
        // answer tells nothing about a hash.
        let mut found = None;
        for publisher in &self.0 {
            if sent.is_some_and(|sent| sent.ct_eq(&publisher.sha256).into()) {
                found = Some(publisher);
            }
        }
        match (found, key) {
            (Some(publisher), _) => Ok(Permission(Some(publisher))),
            (None, Some(_)) => Err(Error::Unauthorized("The key is not known.".to_owned())),
            (None, None) if is_frame => Err(Error::Unauthorized(
                "'key' is missing; this deployment takes messages with a key only.".to_owned(),
            )),
            (None, None) => Err(Error::Unauthorized(
                "The header 'Authorization: Bearer …' is missing; this deployment takes messages with a key only."
                    .to_owned(),
            )),
        }
    }
}

/// What a request may do.
#[derive(Debug)]
pub struct Permission<'a>(Option<&'a Publisher>);

impl Permission<'_> {
    /// Whether it may send to a site.
    ///
    /// # Errors
    /// [`Error::Forbidden`] when its key is for other sites.
    pub fn may_send_to(&self, site: &str) -> Result<(), Error> {
        let Some(Publisher { name, sites, .. }) = self.0 else {
            return Ok(());
        };
        match sites {
            Some(sites) if !sites.iter().any(|allowed| allowed == site) => Err(Error::Forbidden(
                format!("The key '{name}' may not send to this site."),
            )),
            _ => Ok(()),
        }
    }
}

impl Publisher {
    /// The entry of a key, from 32 random bytes, for some sites or all
    /// (`None`). Returns the key as well, which cannot be got back from the
    /// entry.
    ///
    /// # Errors
    /// What is wrong with the name.
    pub fn new(
        name: String,
        sites: Option<Vec<String>>,
        random: [u8; 32],
    ) -> Result<(Self, String), &'static str> {
        check_name(&name)?;
        let key = URL_SAFE_NO_PAD.encode(random);
        let sha256 = hash(&key);
        let publisher = Self {
            name,
            sites,
            sha256,
        };
        Ok((publisher, key))
    }
}

impl fmt::Display for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.name)?;
        match &self.sites {
            None => f.write_str(ALL_SITES)?,
            Some(sites) => {
                for (place, site) in sites.iter().enumerate() {
                    let comma = if place == 0 { "" } else { "," };
                    write!(f, "{comma}{}", utf8_percent_encode(site, SITE))?;
                }
            }
        }
        f.write_str(":")?;
        self.sha256
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Publisher {
    type Err = &'static str;

    fn from_str(entry: &str) -> Result<Self, Self::Err> {
        let fields: Vec<_> = entry.split(':').collect();
        let [name, sites, sha256] = fields[..] else {
            return Err("expected name:sites:sha256");
        };
        check_name(name)?;
        let sites = match sites {
            ALL_SITES => None,
            "" => return Err("it names no site; * is all"),
            sites => {
                let sites = sites.split(',').map(|site| {
                    let site = percent_decode_str(site).decode_utf8();
                    site.map_err(|_| "a site is not UTF-8")
                });
                let sites = sites.map(|site| site.map(String::from));
                Some(sites.collect::<Result<_, _>>()?)
            }
        };
        Ok(Self {
            name: name.to_owned(),
            sites,
            sha256: digest(sha256).ok_or("the hash is not 64 digits of hex")?,
        })
    }
}

impl FromStr for Publishers {
    type Err = EntryError;

    /// Entries with `;` or white space between them.
    fn from_str(entries: &str) -> Result<Self, Self::Err> {
        let mut publishers = Vec::<Publisher>::new();
        let entries = entries.split(|c: char| c == ';' || c.is_whitespace());
        for (place, entry) in entries.filter(|entry| !entry.is_empty()).enumerate() {
            let error = |reason| EntryError {
                place: place + 1,
                reason,
            };
            let publisher: Publisher = entry.parse().map_err(error)?;
            if publishers
                .iter()
                .any(|other| other.sha256 == publisher.sha256)
            {
                return Err(error("the same key is there before"));
            }
            publishers.push(publisher);
        }
        Ok(Self(publishers))
    }
}

/// Names go into the log, URLs and shells.
fn check_name(name: &str) -> Result<(), &'static str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if name.is_empty() || !name.chars().all(is_plain) {
        return Err("the name is not of letters, digits, '-', '.' and '_'");
    }
    Ok(())
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key).into()
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut digest = [0; 32];
    for (place, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * place..2 * place + 2)?, 16).ok()?;
    }
    Some(digest)
}

/// The key in the header, if there is one. The gateway joins two headers with
/// a comma, which no key has.
fn bearer(request: &Request) -> Option<&str> {
    let value = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.trim().split_once(' ')?;
    // Without regard to case (RFC 9110, 11.1).
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HASH: &str = "0123456789abcdef0123456789ABCDEF0123456789abcdef0123456789abcdef";

    proptest! {
        #[test]
        fn an_entry_reads_back_as_it_was_written(
            name in "[A-Za-z0-9._-]{1,20}",
            sites in proptest::option::of(proptest::collection::vec(".{1,20}", 1..4)),
            random: [u8; 32],
        ) {
            let (publisher, key) = Publisher::new(name, sites.clone(), random).unwrap();
            let entry = publisher.to_string();
            prop_assert!(entry.is_ascii() && !entry.contains([' ', ';', '"', '=']), "{}", entry);
            let read: Publisher = entry.parse().unwrap();
            prop_assert_eq!(&read.sites, &sites);
            prop_assert_eq!(read.sha256, hash(&key));
            prop_assert!(!entry.contains(&key));
        }
    }

    #[test]
    fn a_site_called_like_all_sites_is_one_site() {
        let sites = Some(vec![ALL_SITES.to_owned()]);
        let (publisher, _) = Publisher::new("x".into(), sites.clone(), [0; 32]).unwrap();
        let read: Publisher = publisher.to_string().parse().unwrap();
        assert_eq!(read.sites, sites);
    }

    #[test]
    fn entries_are_separated_by_semicolons_or_white_space() {
        let other = HASH.replace('0', "1");
        for between in [";", "\n", " ", ";\r\n", " ; "] {
            let entries = format!("{between}a:saf:{HASH}{between}b:*:{other}{between}");
            let publishers: Publishers = entries.parse().unwrap();
            let names: Vec<_> = publishers.0.iter().map(|p| p.name.as_str()).collect();
            assert_eq!(names, ["a", "b"]);
        }
        assert!(" ;\n".parse::<Publishers>().unwrap().is_empty());
    }

    #[test]
    fn an_entry_that_cannot_be_read_is_named_by_its_place_and_not_shown() {
        for (entry, reason) in [
            ("secret", "name:sites:sha256"),
            (&format!("a:b:{HASH}:secret"), "name:sites:sha256"),
            (&format!("secret!:b:{HASH}"), "the name"),
            (&format!(":b:{HASH}"), "the name"),
            (&format!("a::{HASH}"), "no site"),
            ("a:b:secret", "the hash"),
            (&format!("a:b:{}", &HASH[1..]), "the hash"),
            (&format!("a:b:+{}", &HASH[1..]), "the hash"),
            (&format!("a:%ff:{HASH}"), "UTF-8"),
            (&format!("again:*:{}", HASH.to_lowercase()), "the same key"),
        ] {
            let entries = format!("first:*:{HASH};{entry}");
            let error = entries.parse::<Publishers>().unwrap_err().to_string();
            assert!(error.contains("key 2") && error.contains(reason), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
