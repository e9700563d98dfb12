//! Options that several commands have.

use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Arg, Args, Command};
use logstream_core::Level;
use logstream_core::message::MAX_SITE_BYTES;
use logstream_core::subscription::MAX_SITES;

use super::Failure;
use super::client::Client;
use super::profiles::{self, Profile};

/// Which deployment is meant.
#[derive(Args)]
#[command(next_help_heading = "Deployment")]
pub struct Target {
    /// A profile of the configuration file.
    #[arg(long, value_name = "NAME", env = "LOGSTREAM_PROFILE")]
    profile: Option<String>,

    /// The address of the HTTP API; without a profile
    /// http://127.0.0.1:3000.
    #[arg(long, value_name = "URL")]
    http: Option<String>,

    /// The address of the WebSocket API; by default that of the HTTP API with
    /// ws for http.
    #[arg(long, value_name = "URL", alias = "websocket")]
    ws: Option<String>,
}

impl Target {
    /// The deployment for who sends, with this key or the profile's, and the
    /// profile's sites.
    pub fn sender(self, key: Option<String>) -> Result<(Client, Vec<String>), Failure> {
        let key = key.filter(|key| !key.is_empty());
        let needs_key = key.is_none();
        self.resolve(key, needs_key)
    }

    /// The deployment for who reads, and the profile's sites.
    pub fn reader(self) -> Result<(Client, Vec<String>), Failure> {
        self.resolve(None, false)
    }

    fn resolve(
        self,
        key: Option<String>,
        needs_key: bool,
    ) -> Result<(Client, Vec<String>), Failure> {
        let profile = match self.profile.filter(|name| !name.is_empty()) {
            Some(name) => profiles::read(&name, needs_key)?,
            None => Profile::default(),
        };
        // The profile's WebSocket API belongs to the profile's HTTP API.
        let ws = match (self.ws, &self.http) {
            (Some(ws), _) => Some(ws),
            (None, Some(_)) => None,
            (None, None) => profile.ws,
        };
        let http = self.http.or(profile.http);
        Ok((Client::new(http, ws, key.or(profile.key))?, profile.sites))
    }
}

/// The sites that are named, or the profile's: 1 to 10, each once.
pub fn sites(named: Vec<String>, of_profile: Vec<String>) -> Result<Vec<String>, Failure> {
    let all = if named.is_empty() { of_profile } else { named };
    let mut sites: Vec<String> = Vec::new();
    for site in all {
        if site.is_empty() || site.len() > MAX_SITE_BYTES {
            return Err(Failure::Usage(format!(
                "a site has {} bytes; expected 1 to {MAX_SITE_BYTES}",
                site.len()
            )));
        }
        if !sites.contains(&site) {
            sites.push(site);
        }
    }
    match sites.len() {
        0 => Err(Failure::Usage("which site? Name it with --site".to_owned())),
        1..=MAX_SITES => Ok(sites),
        count => Err(Failure::Usage(format!(
            "{count} sites; expected at most {MAX_SITES}"
        ))),
    }
}

/// Takes every name of a level that the server knows, and shows the five.
#[derive(Clone)]
pub struct LevelParser;

impl TypedValueParser for LevelParser {
    type Value = Level;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<Level, clap::Error> {
        match value.to_str().and_then(Level::from_name) {
            Some(level) => Ok(level),
            None => PossibleValuesParser::new(Level::ALL.map(Level::name))
                .parse_ref(command, argument, value)
                // That is an error.
                .map(|_| Level::Info),
        }
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let names = Level::ALL.map(Level::name);
        Some(Box::new(names.into_iter().map(PossibleValue::new)))
    }
}

/// Reads `90`, `90s`, `15m`, `2h`, `7d` or several of them, as `1h30m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "expected a time such as 90s, 15m, 2h, 1h30m or 7d";
    let mut rest = text;
    let mut seconds = 0_u64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| EXPECTED)?;
        let factor = match unit.chars().next() {
            None | Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3600,
            Some('d') => 86400,
            Some(_) => return Err(EXPECTED.to_owned()),
        };
        let part = number.checked_mul(factor).ok_or(EXPECTED)?;
        seconds = seconds.checked_add(part).ok_or(EXPECTED)?;
        rest = unit.get(1..).unwrap_or_default();
    }
    if text.is_empty() {
        return Err(EXPECTED.to_owned());
    }
    Ok(Duration::from_secs(seconds))
}
