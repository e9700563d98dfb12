//! Text as senders encode it: bytes in several encodings, and forms.

use std::borrow::Cow;

use encoding_rs::{UTF_16BE, UTF_16LE, WINDOWS_1252};
use percent_encoding::percent_decode_str;

/// The text of a body. A byte order mark tells UTF-8 and UTF-16. Without one,
/// UTF-16 is told by the zero byte of its first character, which is ASCII in
/// JSON and in forms. Everything else is UTF-8, or, if it is not valid, what
/// Windows calls ANSI in the West: Windows-1252, which has a character for
/// every byte.
pub fn decode(body: &[u8]) -> Cow<'_, str> {
    match body {
        [0xef, 0xbb, 0xbf, text @ ..] => utf_8_or_windows_1252(text),
        [0xff, 0xfe, ..] | [b'\t'..=b'~', 0, ..] => UTF_16LE.decode(body).0,
        [0xfe, 0xff, ..] | [0, b'\t'..=b'~', ..] => UTF_16BE.decode(body).0,
        _ => utf_8_or_windows_1252(body),
    }
}

/// The names and values of `application/x-www-form-urlencoded`, as in a query
/// string, in the order they were sent. Percent-encoded bytes that are not
/// UTF-8 are Windows-1252.
pub fn form_fields(form: &str) -> impl Iterator<Item = (String, String)> {
    form.split('&')
        .filter(|field| !field.is_empty())
        .map(|field| {
            let (name, value) = field.split_once('=').unwrap_or((field, ""));
            (unescape(name), unescape(value))
        })
}

fn unescape(text: &str) -> String {
    let text = text.replace('+', " ");
    let bytes = Cow::from(percent_decode_str(&text));
    utf_8_or_windows_1252(&bytes).into_owned()
}

fn utf_8_or_windows_1252(bytes: &[u8]) -> Cow<'_, str> {
    std::str::from_utf8(bytes).map_or_else(
        |_| WINDOWS_1252.decode_without_bom_handling(bytes).0,
        Cow::Borrowed,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_read_in_the_encoding_that_its_first_bytes_tell() {
        let text = "{\"°C\": 🔭}";
        let with_mark = format!("\u{feff}{text}");
        let utf_16 = |text: &str, to_bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
            text.encode_utf16().flat_map(to_bytes).collect()
        };
        for body in [
            text.into(),
            with_mark.clone().into_bytes(),
            utf_16(text, u16::to_le_bytes),
            utf_16(text, u16::to_be_bytes),
            utf_16(&with_mark, u16::to_le_bytes),
            utf_16(&with_mark, u16::to_be_bytes),
        ] {
            assert_eq!(decode(&body), text, "{body:?}");
        }
        assert_eq!(decode(b"5 \xb0C \x80 \x96"), "5 °C € –");
        assert_eq!(decode(b"\xef\xbb\xbf5 \xb0C"), "5 °C");
        assert_eq!(decode(b""), "");
        assert!(matches!(decode(text.as_bytes()), Cow::Borrowed(_)));
    }

    #[test]
    fn a_forms_fields_come_in_order_and_in_either_encoding() {
        let fields: Vec<_> = form_fields("a=1&&b=%C3%BC+%2B=&c&a=%FC%80&=%").collect();
        let expected = [("a", "1"), ("b", "ü +="), ("c", ""), ("a", "ü€"), ("", "%")];
        assert_eq!(
            fields,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }
}
