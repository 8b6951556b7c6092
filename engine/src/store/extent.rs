//! Which bytes of how large an object an answer holds: the text of a `Content-Range`.

/// Which bytes of how large an object; never empty, never beyond its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The first byte.
    pub start: u64,
    /// Number of bytes.
    pub len: u64,
    /// Bytes of the whole object.
    pub object_bytes: u64,
}

impl Extent {
    /// Reads `bytes 5-9/20`. `None` for anything that does not say all three numbers, or says what cannot be.
    pub fn parse_content_range(text: &str) -> Option<Self> {
        let (unit, rest) = text.trim().split_once(' ')?;
        let (range, object_bytes) = rest.trim_start().split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last, object_bytes) = (number(first)?, number(last)?, number(object_bytes)?);
        if !unit.eq_ignore_ascii_case("bytes") || last < first || last >= object_bytes {
            return None;
        }
        Some(Self { start: first, len: last - first + 1, object_bytes })
    }
}

/// Digits alone: what `u64::from_str` takes beyond them (a sign) no server may send.
fn number(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn content_ranges_are_read() {
        let read = Extent { start: 5, len: 5, object_bytes: 20 };
        assert_eq!(Extent::parse_content_range("bytes 5-9/20"), Some(read));
        assert_eq!(Extent::parse_content_range(" Bytes  5-9/20 "), Some(read));
        let last = format!("bytes 0-{}/{}", u64::MAX - 1, u64::MAX);
        assert_eq!(Extent::parse_content_range(&last).map(|extent| extent.len), Some(u64::MAX));
    }

    #[test]
    fn content_ranges_that_cannot_be_are_refused() {
        for bad in [
            "",
            "bytes",
            "bytes */20",
            "bytes 5-9/*",
            "bytes 9-5/20",
            "bytes 5-20/20",
            "items 5-9/20",
            "bytes=5-9/20",
            "bytes +5-9/20",
            "bytes -5-9/20",
            "bytes 5-9/20, 11-12/20",
            "bytes 0-18446744073709551615/1",
            "bytes 0-0/18446744073709551616",
        ] {
            assert_eq!(Extent::parse_content_range(bad), None, "{bad}");
        }
    }

    proptest! {
        /// Whatever it is, what is taken is a range of its object, and says the same when it is written again.
        #[test]
        fn what_is_taken_is_inside(text in "(bytes|Bytes|items)?[ =]{0,2}[+-]?[0-9]{0,21}-?[0-9*]{0,21}/?[0-9*]{0,21}") {
            if let Some(Extent { start, len, object_bytes }) = Extent::parse_content_range(&text) {
                prop_assert!(len > 0 && start.checked_add(len).is_some_and(|end| end <= object_bytes));
                let again = format!("bytes {start}-{}/{object_bytes}", start + len - 1);
                prop_assert_eq!(Extent::parse_content_range(&again), Some(Extent { start, len, object_bytes }));
            }
        }
    }
}
