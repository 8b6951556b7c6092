//! What a web server says of the range that it gives.

use etcdbr_engine::store::{AnswerHead, Asked, Served};

/// A status, the range that was asked for, and the headers, a line each.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    [
        "206\n0\n100\nbytes 0-99/1000\n100\n\n\"a\"\n",
        "206\n900\n500\nbytes 900-999/1000\n100\n\nW/\"a\"\nSat, 21 Nov 2026 10:00:00 GMT",
        "200\n0\n100\n\n1000\n\n\"a\"\n",
        "206\n0\n100\nbytes */1000\n\ngzip\n\n",
        "416\n5\n1\nbytes 18446744073709551615-0/0\n\n\n\n",
    ]
    .map(|seed| seed.as_bytes().to_vec())
    .to_vec()
}

/// What is taken begins where it was asked to, is no longer, and lies inside its object.
pub(crate) fn target(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    let mut lines = text.split('\n');
    let mut number = |most: u64| lines.next().and_then(|line| line.parse::<u64>().ok()).unwrap_or(0).min(most);
    let (status, start, len) = (number(999) as u16, number(u64::MAX), number(u64::MAX).max(1));
    let mut header = || lines.next().filter(|line| !line.is_empty()).map(str::to_owned);
    let head = AnswerHead {
        status,
        content_range: header(),
        content_length: header(),
        content_encoding: header(),
        etag: header(),
        last_modified: header(),
    };
    match head.served(Asked { start, len }) {
        Err(error) => error.kind().as_str().to_owned(),
        Ok(Served::Whole(_)) => "whole".to_owned(),
        Ok(Served::Part(extent)) => {
            assert!(extent.start == start && (1..=len).contains(&extent.len), "{extent:?}");
            let end = extent.start.checked_add(extent.len).expect("no range ends beyond all numbers");
            assert!(end <= extent.object_bytes, "{extent:?}");
            "part".to_owned()
        }
    }
}
