//! What somebody who wrote this name probably meant.

/// Names that people bring along from elsewhere, and where the thing is here. The left side is compared without case, dashes and
/// underscores; the right is a path from `spec`.
const ELSEWHERE: [(&str, &str); 23] = [
    ("activationscale", "scale.activation"),
    ("concurrencylimit", "concurrency.limit"),
    ("containerconcurrency", "concurrency.limit"),
    ("cron", "triggers[].cron"),
    ("entrypoint", "handler"),
    ("environment", "env"),
    ("idletimeout", "scale.idleTimeout"),
    ("image", "source.image"),
    ("inline", "source.inline"),
    ("keepalive", "scale.keepAlive"),
    ("limits", "resources"),
    ("maxinstances", "scale.max"),
    ("maxscale", "scale.max"),
    ("mininstances", "scale.min"),
    ("minscale", "scale.min"),
    ("replicas", "scale.min"),
    ("requests", "resources"),
    ("routes", "triggers[].http"),
    ("scaledowndelay", "scale.scaleDownDelay"),
    ("scaling", "scale"),
    ("timeout", "timeouts.execute"),
    ("timeoutseconds", "timeouts.execute"),
    ("http", "triggers[].http"),
];

/// The name among `known` that is nearest to `name`, when it is near enough to be meant.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = plain(name);
    if wanted.is_empty() {
        return None;
    }
    // One slip in a short name, one for every three characters in a longer one.
    let allowed = (wanted.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&wanted, &plain(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= allowed && *distance < candidate.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Where `name`, found directly in `spec`, belongs.
pub(super) fn elsewhere(name: &str) -> Option<&'static str> {
    let wanted = plain(name);
    ELSEWHERE.iter().find(|(foreign, _)| *foreign == wanted).map(|(_, here)| *here)
}

fn plain(name: &str) -> String {
    name.chars().take(64).filter(|c| !matches!(c, '-' | '_')).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_slips_and_other_spellings() {
        let known = ["handler", "idleTimeout", "min", "max", "env"];
        for (name, meant) in [
            ("hander", Some("handler")),
            ("Handler", Some("handler")),
            ("idle_timeout", Some("idleTimeout")),
            ("envs", Some("env")),
            ("mni", Some("min")),
            ("banana", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, known), meant, "{name}");
        }
        assert_eq!(elsewhere("containerConcurrency"), Some("concurrency.limit"));
    }
}
