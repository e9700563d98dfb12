//! The sort key of a message: its time in microseconds.

use std::fmt;
use std::time::Duration;

/// Microseconds in a second.
const MICROS: u64 = 1_000_000;

/// The latest time that a message may carry, in seconds: eleven digits, so that
/// milliseconds sent by mistake are out of range.
const MAX_SECONDS: i128 = 99_999_999_999;

/// A message's time in whole microseconds since the Unix epoch: the table's
/// sort key and, printed with six decimals, the message's id
/// (`1604514063.418301`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SortKey(u64);

/// Why a text is not a time.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// It is not a number as JSON writes it (RFC 8259, section 6).
    #[error("expected a number of Unix seconds")]
    NotANumber,
    /// It is a number out of range.
    #[error("expected Unix seconds between 0 and 99999999999 (not milliseconds)")]
    OutOfRange,
}

impl SortKey {
    /// The first key of all.
    pub const MIN: Self = Self(0);
    /// Above every key that a message can be stored under.
    pub const MAX: Self = Self(999_999_999_999_999_999);

    /// The current time.
    pub fn now() -> Self {
        let since_epoch = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Self(u64::try_from(since_epoch.as_micros()).unwrap_or(Self::MAX.0))
    }

    /// Reads Unix seconds in decimal (`1604514063.418301`); digits after the
    /// sixth decimal are cut off.
    ///
    /// # Errors
    /// [`TimeError`] when it is not a JSON number, or is negative or above
    /// 99,999,999,999.
    pub fn from_seconds(text: &str) -> Result<Self, TimeError> {
        let micros = micros(text).ok_or(TimeError::NotANumber)?;
        let negative = text.starts_with('-') && micros != 0;
        if negative || micros > MAX_SECONDS * i128::from(MICROS) {
            return Err(TimeError::OutOfRange);
        }
        u64::try_from(micros)
            .map(Self)
            .map_err(|_| TimeError::OutOfRange)
    }

    /// Reads a stored row's key, which may lie above the latest time that a
    /// message may carry. `None` if it is not a key.
    pub fn from_stored(number: &str) -> Option<Self> {
        let micros = u64::try_from(micros(number)?).ok()?;
        (micros <= Self::MAX.0).then_some(Self(micros))
    }

    /// The first key of a second; beyond either end, [`Self::MIN`] or
    /// [`Self::MAX`].
    pub fn first_of_second(seconds: i64) -> Self {
        let micros = u64::try_from(seconds).unwrap_or(0).saturating_mul(MICROS);
        Self(micros.min(Self::MAX.0))
    }

    /// Whole seconds, the fraction cut off: the `timestamp` of a frame.
    pub fn seconds(self) -> u64 {
        self.0 / MICROS
    }

    /// Seconds with their fraction, as a JSON number without needless zeros
    /// (`1604514063.25`): the `timestamp` of an entry in recent-logs.
    pub fn to_json(self) -> String {
        let id = self.to_string();
        id.trim_end_matches('0').trim_end_matches('.').to_owned()
    }

    /// The last key of this key's second.
    pub fn end_of_second(self) -> Self {
        Self(self.0 - self.0 % MICROS + (MICROS - 1))
    }

    /// The time from an earlier moment to this one; zero if it was later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// The whole second, rounded down, that a JSON number of seconds before
    /// this time lies in; negative before 1970. `None` if the text is not a
    /// number, or a negative one. Saturates like [`whole_seconds`].
    pub fn second_before(self, seconds: &str) -> Option<i64> {
        let ago = micros(seconds).filter(|ago| *ago >= 0)?;
        let second = (i128::from(self.0) - ago).div_euclid(i128::from(MICROS));
        Some(i64::try_from(second).unwrap_or(i64::MIN))
    }

    /// The key one microsecond above.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The key one microsecond below; `None` below the first.
    pub fn previous(self) -> Option<Self> {
        self.0.checked_sub(1).map(Self)
    }
}

impl fmt::Display for SortKey {
    /// Seconds with six decimals: the id, and the number that is stored.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / MICROS, self.0 % MICROS)
    }
}

/// The whole seconds of a JSON number, truncated; `None` if the text is not
/// one. Saturates far outside of every time in use.
pub fn whole_seconds(text: &str) -> Option<i64> {
    let seconds = micros(text)? / i128::from(MICROS);
    Some(i64::try_from(seconds).unwrap_or(if seconds < 0 { i64::MIN } else { i64::MAX }))
}

/// A JSON number (RFC 8259, section 6) times 1,000,000, truncated; `None` if
/// the text is not one. Exact, where a float would round 1604514063.9999999 up
/// to the next second. Saturates at 10^30.
fn micros(text: &str) -> Option<i128> {
    const LIMIT: i128 = 10_i128.pow(30);

    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, parse_exponent(exponent)?),
        None => (rest, 0),
    };
    let (integer, fraction) = match mantissa.split_once('.') {
        Some((_, "")) => return None,
        Some(parts) => parts,
        None => (mantissa, ""),
    };
    let leading_zero = integer.len() > 1 && integer.starts_with('0');
    if integer.is_empty() || leading_zero || !is_digits(integer) || !is_digits(fraction) {
        return None;
    }

    // How many digits stand before the point, moved by exponent + 6.
    let mut before_point = i64::try_from(integer.len())
        .ok()?
        .saturating_add(exponent)
        .saturating_add(6);
    let mut value: i128 = 0;
    let digits = integer.bytes().chain(fraction.bytes());
    for digit in digits {
        if before_point <= 0 || value >= LIMIT {
            break;
        }
        value = value * 10 + i128::from(digit - b'0');
        before_point -= 1;
    }
    while before_point > 0 && value != 0 && value < LIMIT {
        value *= 10;
        before_point -= 1;
    }
    let value = value.min(LIMIT);
    Some(if negative { -value } else { value })
}

/// The exponent of a JSON number; one too large for 64 bits counts as the
/// largest, with the same result.
fn parse_exponent(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix(['+', '-']) {
        Some(digits) => (text.starts_with('-'), digits),
        None => (false, text),
    };
    if digits.is_empty() || !is_digits(digits) {
        return None;
    }
    let value = digits.parse().unwrap_or(i64::MAX);
    Some(if negative { -value } else { value })
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(text: &str) -> String {
        SortKey::from_seconds(text).unwrap().to_string()
    }

    #[test]
    fn a_time_is_truncated_to_the_microsecond() {
        assert_eq!(id("1604514063"), "1604514063.000000");
        assert_eq!(id("1604514063.418301"), "1604514063.418301");
        assert_eq!(id("1604514063.9999999999"), "1604514063.999999");
        assert_eq!(id("1.604514063e9"), "1604514063.000000");
        assert_eq!(id("1604514063418e-3"), "1604514063.418000");
        assert_eq!(id("0.0000004"), "0.000000");
        assert_eq!(id("-0"), "0.000000");
        assert_eq!(id("0e999999999999999999999"), "0.000000");
        assert_eq!(id("1e-999999999999999999999"), "0.000000");
        assert_eq!(id("99999999999"), "99999999999.000000");
    }

    #[test]
    fn a_json_number_has_the_fraction_without_needless_zeros() {
        for (text, number) in [
            ("1604514063.418301", "1604514063.418301"),
            ("1604514063.25", "1604514063.25"),
            ("1604514063.000001", "1604514063.000001"),
            ("1604514060", "1604514060"),
            ("0.5", "0.5"),
            ("0", "0"),
            ("99999999999", "99999999999"),
        ] {
            assert_eq!(SortKey::from_seconds(text).unwrap().to_json(), number);
        }
    }

    #[test]
    fn a_text_that_is_not_a_json_number_is_refused() {
        for text in [
            "",
            " ",
            "12 ",
            " 12",
            "+1",
            "1_604",
            "1.",
            ".5",
            "01",
            "1e",
            "1e+",
            "0x10",
            "NaN",
            "Infinity",
            "-",
            "--1",
            "1.2.3",
            "2020-11-04T18:21:03Z",
            "\u{661}\u{662}",
            "1e1.5",
            "1,5",
        ] {
            assert_eq!(
                SortKey::from_seconds(text),
                Err(TimeError::NotANumber),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_number_out_of_range_is_refused_whatever_its_length() {
        let long = "1".repeat(5000);
        for text in [
            "-1",
            "-0.000001",
            "100000000000",
            "99999999999.5",
            "1604514063000",
            "1e400",
            "1e99999999999999999999",
            &long,
        ] {
            assert_eq!(
                SortKey::from_seconds(text),
                Err(TimeError::OutOfRange),
                "{text:?}"
            );
        }
    }

    #[test]
    fn after_time_is_cut_to_whole_seconds() {
        assert_eq!(whole_seconds("199.9"), Some(199));
        assert_eq!(whole_seconds("1e2"), Some(100));
        assert_eq!(whole_seconds("-1.5"), Some(-1));
        assert!(whole_seconds(&"9".repeat(39)).unwrap() > 99_999_999_999);
        assert!(whole_seconds("-1e99").unwrap() < -99_999_999_999);
        assert_eq!(whole_seconds("abc"), None);
    }

    #[test]
    fn an_age_leads_to_the_second_in_which_it_began() {
        let now = SortKey::from_seconds("100.5").unwrap();
        for (seconds, second) in [
            ("0", Some(100)),
            ("-0", Some(100)),
            ("0.5", Some(100)),
            ("0.500001", Some(99)),
            ("1e1", Some(90)),
            ("100.5", Some(0)),
            ("100.6", Some(-1)),
            ("604800", Some(-604_700)),
            ("1e99", Some(i64::MIN)),
            ("-1", None),
            ("-1e99", None),
            ("", None),
            ("1 h", None),
        ] {
            assert_eq!(now.second_before(seconds), second, "{seconds:?}");
        }
    }

    proptest! {
        #[test]
        fn an_id_reads_back_as_the_same_key(micros in 0_u64..=99_999_999_999_000_000) {
            let key = SortKey(micros);
            prop_assert_eq!(SortKey::from_seconds(&key.to_string()), Ok(key));
            prop_assert_eq!(SortKey::from_stored(&key.to_string()), Some(key));
            prop_assert_eq!(SortKey::from_seconds(&key.to_json()), Ok(key));
        }

        #[test]
        fn any_text_is_a_time_only_if_json_reads_it_as_a_number(text in "[-+0-9.eE ]{0,12}") {
            let is_json = serde_json::from_str::<&serde_json::value::RawValue>(&text)
                .is_ok_and(|raw| raw.get().len() == text.len());
            prop_assert_eq!(micros(&text).is_some(), is_json);
        }
    }
}
