//! Base64 with the standard alphabet and padding (RFC 4648, section 4), as Java's encoder writes it.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn value(symbol: u8) -> Option<u32> {
    let value = match symbol {
        b'A'..=b'Z' => symbol - b'A',
        b'a'..=b'z' => symbol - b'a' + 26,
        b'0'..=b'9' => symbol - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(value.into())
}

/// The bytes; `None` if the text is not base64. Line ends are passed over, since some encoders break
/// lines.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    // Bits that do not make up a byte yet, and how many they are.
    let (mut bits, mut held) = (0_u32, 0_u32);
    let (mut symbols, mut padding) = (0_usize, 0_usize);
    for symbol in text.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')) {
        symbols += 1;
        if symbol == b'=' {
            padding += 1;
            continue;
        }
        if padding > 0 {
            return None;
        }
        bits = (bits << 6) | value(symbol)?;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from((bits >> held) & 0xff).ok()?);
            bits &= (1 << held) - 1;
        }
    }
    let whole = symbols.is_multiple_of(4) && padding <= 2 && bits == 0 && held < 6;
    whole.then_some(bytes)
}

/// The text for the bytes, in one line.
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0_u32, |group, byte| (group << 8) | u32::from(*byte));
        let group = group << (8 * (3 - chunk.len()));
        for place in 0..4_usize {
            let index = usize::try_from((group >> (18 - 6 * place)) & 0x3f).unwrap_or_default();
            let symbol = ALPHABET.get(index).filter(|_| place <= chunk.len());
            text.push(symbol.map_or('=', |symbol| char::from(*symbol)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_standard() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(decode(text).unwrap(), bytes.as_bytes());
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&all)).unwrap(), all);
        assert_eq!(decode("Zm9v\r\nYmFy\n").unwrap(), b"foobar");
    }

    #[test]
    fn what_is_not_base64_is_refused() {
        for text in
            ["Z", "Zg", "Zg=", "Zm9vY", "====", "Zg==Zg==", "Zm9v=", "Zm9-", "Zm 9v", "Zh==", "Zm9=", "é"]
        {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }
}
