//! Values with units, as flags take them.

use std::time::Duration;

use etcdbr_engine::clock::UnixMillis;
use etcdbr_engine::pipeline::CompressionLevel;

/// `8388608`, `8MiB`, `64k`: bytes, in powers of 1,024.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text[digits.len()..].trim().to_ascii_lowercase();
    let shift = match unit.as_str() {
        "" | "b" => 0,
        "k" | "ki" | "kib" => 10,
        "m" | "mi" | "mib" => 20,
        "g" | "gi" | "gib" => 30,
        _ => return Err(format!("{text:?} is no size; write bytes, or a number with KiB, MiB or GiB")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is no size"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text:?} is too large"))
}

/// `5s`, `100ms`, `1m30s`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration; write for example 100ms, 5s or 1m30s");
    let duration: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(duration).ok().filter(|duration| !duration.is_zero()).ok_or_else(wrong)
}

/// A duration, or `0` for never.
pub(crate) fn parse_interval(text: &str) -> Result<Duration, String> {
    if matches!(text, "0" | "0s") { Ok(Duration::ZERO) } else { parse_duration(text) }
}

/// As [`parse_interval`], or so many days: `7d`.
pub(crate) fn parse_long_interval(text: &str) -> Result<Duration, String> {
    match text.strip_suffix('d').map(str::parse::<u32>) {
        Some(Ok(days)) => Ok(Duration::from_secs(u64::from(days) * 24 * 3_600)),
        _ => parse_interval(text),
    }
}

/// A time to live in seconds: at least the one that etcd counts in.
pub(crate) fn parse_ttl_s(text: &str) -> Result<i64, String> {
    let seconds = i64::try_from(parse_duration(text)?.as_secs()).unwrap_or(i64::MAX);
    if seconds >= 1 { Ok(seconds) } else { Err(format!("{text:?} is less than a second")) }
}

/// RFC 3339: `2026-11-21T03:00:00Z`, `2026-11-21T04:00:00.5+01:00`.
pub(crate) fn parse_time(text: &str) -> Result<UnixMillis, String> {
    let time: Result<jiff::Timestamp, _> = text.parse();
    time.map(|time| UnixMillis(time.as_millisecond()))
        .map_err(|_| format!("{text:?} is no time; write for example 2026-11-21T03:00:00Z"))
}

/// `key=value`.
pub(crate) fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is no label; write key=value")),
    }
}

/// `none` or a zstd level, 1 to 19.
pub(crate) fn parse_level(text: &str) -> Result<CompressionLevel, String> {
    match text {
        "none" => Ok(CompressionLevel::None),
        _ => text
            .parse()
            .ok()
            .filter(|level| (1..=19).contains(level))
            .map(CompressionLevel::Zstd)
            .ok_or_else(|| format!("{text:?} is no level; write none, or 1 (fastest) to 19 (smallest)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_bytes("5242880"), Ok(5 << 20));
        assert_eq!(parse_bytes("8MiB"), Ok(8 << 20));
        assert_eq!(parse_bytes("1 GiB"), Ok(1 << 30));
        for bad in ["", "MiB", "8 parsecs", "-1", "99999999999g"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(parse_duration("1m30s"), Ok(Duration::from_secs(90)));
        for bad in ["", "5", "0s", "-5s", "soon"] {
            assert!(parse_duration(bad).is_err() && parse_ttl_s(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_ttl_s("1m30s"), Ok(90));
        assert!(parse_ttl_s("900ms").is_err());
    }

    #[test]
    fn times() {
        assert_eq!(parse_time("2026-11-21T03:00:00Z"), Ok(UnixMillis(1_795_230_000_000)));
        assert_eq!(parse_time("2026-11-21T04:00:00.5+01:00"), Ok(UnixMillis(1_795_230_000_500)));
        for bad in ["", "now", "2026-11-21", "2026-11-21T03:00:00"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_interval_may_be_never() {
        assert_eq!(parse_interval("0"), Ok(Duration::ZERO));
        assert_eq!(parse_interval("6h"), Ok(Duration::from_secs(6 * 3600)));
        assert!(parse_interval("").is_err() && parse_interval("6").is_err());
        assert_eq!(parse_long_interval("7d"), Ok(Duration::from_secs(7 * 24 * 3600)));
        assert_eq!(parse_long_interval("90m"), parse_interval("90m"));
        assert!(parse_long_interval("d").is_err() && parse_long_interval("-1d").is_err());
    }

    #[test]
    fn levels_and_labels() {
        assert_eq!(parse_level("none"), Ok(CompressionLevel::None));
        assert_eq!(parse_level("3"), Ok(CompressionLevel::Zstd(3)));
        assert!(parse_level("0").is_err() && parse_level("22").is_err() && parse_level("fast").is_err());
        assert_eq!(parse_label("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(parse_label("a").is_err() && parse_label("=b").is_err());
    }
}
