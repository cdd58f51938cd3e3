//! What somebody who wrote this name probably meant.

/// Names that people bring along from elsewhere, and where the thing is here: the object it stands in, its name without case, dashes and
/// underscores, and a path from that object.
const ELSEWHERE: [(&str, &str, &str); 38] = [
    ("spec", "activationscale", "scale.activation"),
    ("spec", "code", "source"),
    ("spec", "concurrencylimit", "concurrency.limit"),
    ("spec", "containerconcurrency", "concurrency.limit"),
    ("spec", "cron", "triggers[].cron"),
    ("spec", "entrypoint", "handler"),
    ("spec", "environment", "env"),
    ("spec", "http", "triggers[].http"),
    ("spec", "idletimeout", "scale.idleTimeout"),
    ("spec", "image", "source.image"),
    ("spec", "inline", "source.inline"),
    ("spec", "keepalive", "scale.keepAlive"),
    ("spec", "limits", "resources"),
    ("spec", "maxinstances", "scale.max"),
    ("spec", "maxscale", "scale.max"),
    ("spec", "mininstances", "scale.min"),
    ("spec", "minscale", "scale.min"),
    ("spec", "name", "metadata.name"),
    ("spec", "replicas", "scale.min"),
    ("spec", "requests", "resources"),
    ("spec", "routes", "triggers[].http"),
    ("spec", "scaledowndelay", "scale.scaleDownDelay"),
    ("spec", "scaling", "scale"),
    ("spec", "timeout", "timeouts.execute"),
    ("spec", "timeoutseconds", "timeouts.execute"),
    ("spec", "variables", "env"),
    ("spec.resources", "disk", "tmp"),
    ("spec.resources", "ram", "memory"),
    ("spec.source", "code", "path"),
    ("spec.source", "dir", "path"),
    ("spec.source", "directory", "path"),
    ("spec.source", "file", "path"),
    ("spec.source", "files", "inline"),
    ("spec.source", "folder", "path"),
    ("spec.source", "repository", "git"),
    ("spec.timeouts", "request", "execute"),
    ("spec.timeouts", "timeout", "execute"),
    ("spec.timeouts", "wait", "queue"),
];

/// The name among `known` that is nearest to `name`, when it is near enough to be meant.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = plain(name);
    if wanted.is_empty() {
        return None;
    }
    let length = wanted.chars().count();
    // One slip in a short name, one for every three characters in a longer one.
    let allowed = (length / 3).clamp(1, 3);
    let known: Vec<&str> = known.into_iter().collect();
    let near = known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(&wanted, &plain(candidate)), *candidate))
        .filter(|(distance, candidate)| *distance <= allowed && *distance < candidate.len())
        .min_by_key(|(distance, _)| *distance);
    if let Some((_, candidate)) = near {
        return Some(candidate);
    }
    // `mem`, `proc`: the beginning of one name alone.
    let mut begun =
        known.into_iter().filter(|candidate| length >= 3 && plain(candidate).starts_with(&wanted));
    begun.next().filter(|_| begun.next().is_none())
}

/// Where `name`, found directly in the object at `path`, belongs.
pub(super) fn elsewhere(path: &str, name: &str) -> Option<&'static str> {
    let wanted = plain(name);
    ELSEWHERE
        .iter()
        .find(|(at, foreign, _)| (*at, *foreign) == (path, wanted.as_str()))
        .map(|(_, _, here)| *here)
}

/// The same of a name with a slip in it.
pub(super) fn nearly_elsewhere(path: &str, name: &str) -> Option<&'static str> {
    let foreign = ELSEWHERE.iter().filter(|(at, _, _)| *at == path).map(|(_, foreign, _)| *foreign);
    elsewhere(path, nearest(name, foreign)?)
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
            ("han", Some("handler")),
            ("mni", Some("min")),
            ("banana", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, known), meant, "{name}");
        }
        assert_eq!(nearest("ide", ["idleTimeout", "ideal"]), Some("ideal"));
        assert_eq!(nearest("idl", ["idleTimeout", "idleStream"]), None, "two begin so");
        assert_eq!(elsewhere("spec", "containerConcurrency"), Some("concurrency.limit"));
        assert_eq!(elsewhere("spec.scale", "containerConcurrency"), None);
        assert_eq!(nearly_elsewhere("spec", "enviroment"), Some("env"));
        assert_eq!(nearly_elsewhere("spec", "banana"), None);
    }
}
