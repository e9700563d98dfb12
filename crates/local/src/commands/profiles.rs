//! The configuration file: deployments by name.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy as _;
use serde::Deserialize;

use super::Failure;

/// A deployment and how it is used.
#[derive(Default)]
pub struct Profile {
    pub http: Option<String>,
    pub ws: Option<String>,
    pub key: Option<String>,
    pub sites: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(default)]
    profile: BTreeMap<String, Table>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    http: Option<String>,
    ws: Option<String>,
    /// Any value, because an error would show one of the wrong type.
    key: Option<toml::Value>,
    /// Relative to the file's own folder.
    key_file: Option<PathBuf>,
    #[serde(default)]
    sites: Vec<String>,
}

/// Reads a profile of the configuration file. A file with a key is read only
/// if it is needed: who reads may have no right to.
pub fn read(name: &str, needs_key: bool) -> Result<Profile, Failure> {
    let path = path()?;
    let place = path.display();
    let wrong = |error: String| Failure::Usage(format!("{place}: {error}"));
    let mut file = File::open(&path).map_err(|error| wrong(error.to_string()))?;
    let mut text = String::new();
    file.read_to_string(&mut text)
        .map_err(|error| wrong(error.to_string()))?;
    let mut settings: Settings = toml::from_str(&text).map_err(|error| {
        // Not the whole error, which quotes the line, and that may be a key's.
        let end = error.span().map_or(0, |span| span.start);
        let before = text.get(..end).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        wrong(format!("line {line}: {}", error.message()))
    })?;
    let Some(table) = settings.profile.remove(name) else {
        let known: Vec<_> = settings.profile.into_keys().collect();
        return Err(wrong(format!(
            "there is no profile '{name}'; it has {}",
            if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            }
        )));
    };
    let key = match (table.key, table.key_file) {
        (Some(_), Some(_)) => {
            let error = format!("profile '{name}' has both key and key_file; expected one");
            return Err(wrong(error));
        }
        (Some(toml::Value::String(key)), None) => {
            warn_if_others_can_read(&file, &path);
            Some(key)
        }
        (Some(_), None) => return Err(wrong(format!("the key of '{name}' is not a string"))),
        (None, Some(key_file)) if needs_key => {
            let key_file = path.with_file_name(key_file);
            let place = key_file.display();
            let wrong = |error: String| {
                Failure::Usage(format!("the key_file of '{name}', {place}: {error}"))
            };
            let key = read_key(&key_file).map_err(|error| wrong(error.to_string()))?;
            if key.is_empty() {
                return Err(wrong("it is empty".to_owned()));
            }
            Some(key)
        }
        (None, _) => None,
    };
    Ok(Profile {
        http: table.http,
        ws: table.ws,
        key,
        sites: table.sites,
    })
}

fn path() -> Result<PathBuf, Failure> {
    let named: Option<OsString> = std::env::var_os("LOGSTREAM_CONFIG");
    if let Some(path) = named.filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let folders =
        etcetera::choose_base_strategy().map_err(|error| Failure::Usage(error.to_string()))?;
    Ok(folders.config_dir().join("logstream").join("config.toml"))
}

fn read_key(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut key = String::new();
    file.read_to_string(&mut key)?;
    warn_if_others_can_read(&file, path);
    Ok(key.trim().to_owned())
}

#[cfg(unix)]
fn warn_if_others_can_read(file: &File, path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    // Not the group, which may be those who share the key.
    if file
        .metadata()
        .is_ok_and(|file| file.permissions().mode() & 0o004 != 0)
    {
        let place = path.display();
        super::tell(&format!(
            "warning: every user of this machine can read the key in {place}; chmod 600 keeps it private"
        ));
    }
}

#[cfg(not(unix))]
fn warn_if_others_can_read(_: &File, _: &Path) {}
