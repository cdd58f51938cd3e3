//! Ages in tables, as `kubectl` users read them: short, and the less exact the longer.

use jiff::Timestamp;

/// How long ago `then` was: `45s`, `5m3s`, `3h`, `2d4h`, `41d`, `3y12d`. What lies ahead, by clocks that differ, is `0s`.
pub(super) fn between(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(then.as_second()).max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let years = days / 365;
    match seconds {
        ..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        _ if years < 2 => format!("{days}d"),
        _ if years < 8 => two(years, "y", days % 365, "d"),
        _ => format!("{years}y"),
    }
}

fn two(large: i64, large_unit: &str, small: i64, small_unit: &str) -> String {
    if small == 0 {
        format!("{large}{large_unit}")
    } else {
        format!("{large}{large_unit}{small}{small_unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_get_coarser() {
        let then = Timestamp::from_second(1_000_000).unwrap();
        for (seconds, age) in [
            (-5, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (303, "5m3s"),
            (601, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (12_000, "3h20m"),
            (100_000, "27h"),
            (187_200, "2d4h"),
            (3_600_000, "41d"),
            (63_072_000 + 86_400, "2y1d"),
            (400_000_000, "12y"),
        ] {
            assert_eq!(between(then, Timestamp::from_second(1_000_000 + seconds).unwrap()), age, "{seconds}");
        }
    }
}
