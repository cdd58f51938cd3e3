//! Precedence, problems, text forms.

use std::time::Duration;

use super::*;
use crate::serve::config::{OPTIONS, Size};

/// Layers with a file of this name and text.
fn layers(
    directory: &Path,
    file: Option<(&str, &str)>,
    environment: &[(&str, &str)],
    flags: &[(&str, &str)],
) -> Layers {
    let owned = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let file = file.map(|(name, text)| {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        path
    });
    // Without a file of its own a test must not read the machine's.
    let file = file.unwrap_or_else(|| {
        let path = directory.join("empty.yaml");
        std::fs::write(&path, "").unwrap();
        path
    });
    Layers { file: Some(file), environment: owned(environment), flags: owned(flags) }
}

fn messages(problems: Problems) -> Vec<String> {
    problems
        .0
        .iter()
        .map(|problem| format!("{}: {}", problem.key.as_deref().unwrap_or("-"), problem.message))
        .collect()
}

#[test]
fn a_later_layer_wins_and_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let yaml = "drain: { deadline: 5s }\n";
    let toml = "[drain]\ndeadline = \"5s\"\n";
    let variable = [("HEARTH_DRAIN_DEADLINE", "6s")];
    let flag = [("drain.deadline", "7s")];
    for (file, environment, flags, wanted, from) in [
        (None, &[][..], &[][..], 30, "default"),
        (Some(("a.yaml", yaml)), &[], &[], 5, "file"),
        (Some(("a.toml", toml)), &[], &[], 5, "file"),
        (Some(("a.yaml", yaml)), &variable, &[], 6, "variable HEARTH_DRAIN_DEADLINE"),
        (Some(("a.yaml", yaml)), &variable, &flag, 7, "flag"),
        (None, &[], &flag, 7, "flag"),
    ] {
        let effective = load(&layers(directory.path(), file, environment, flags)).unwrap();
        assert_eq!(effective.config.drain.deadline, Duration::from_secs(wanted), "{from}");
        let (_, source) = effective.entries().find(|(option, _)| option.key == "drain.deadline").unwrap();
        assert!(source.to_string().starts_with(from), "{source}");
    }
}

#[test]
fn every_problem_of_every_layer_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let file = "gatway: { listen: x }\ngateway: { lissten: 1, max_body: lots }\ndrain: 5\n";
    let environment = [("HEARTH_GATEWAY_LISTEN", "here"), ("HEARTH_DRAIN_DEADLNE", "5s"), ("OTHER", "1")];
    let flags = [("backend", "dokcer"), ("gateway.threads", "0")];
    let problems = load(&layers(directory.path(), Some(("a.yaml", file)), &environment, &flags)).unwrap_err();
    let mut told = messages(problems);
    told.sort();
    insta::assert_snapshot!(told.join("\n"), @r#"
    -: sets no option; did you mean HEARTH_DRAIN_DEADLINE?
    backend: "dokcer" is no backend of this build: use "embedded" or "docker"
    drain: is a section: its options stand below it
    gateway.lissten: there is no such option; did you mean gateway.listen?
    gateway.listen: "here" is not an address and a port, as in 127.0.0.1:8080
    gateway.max_body: "lots" is not a size in bytes, as in 512Ki, 64Mi or 1Gi
    gateway.threads: 0 would serve nothing: give 1 or more, or leave it out
    gatway: there is no such option; did you mean gateway?
    "#);
}

#[test]
fn what_clusters_put_into_every_environment_is_not_ours() {
    let directory = tempfile::tempdir().unwrap();
    let environment = [
        ("HEARTH_SERVICE_HOST", "10.0.0.1"),
        ("HEARTH_PORT", "tcp://10.0.0.1:80"),
        ("HEARTH_GATEWAY_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("HEARTH_LOG", "debug"),
    ];
    assert!(load(&layers(directory.path(), None, &environment, &[])).is_ok());
}

#[test]
fn a_file_that_is_no_configuration_is_one_problem() {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("a.yaml", "a: [1"),
        ("a.toml", "a = ["),
        ("a.yaml", "- 1"),
        ("a.conf", "x"),
        ("a.yaml", "main: {data_dir: /x}"),
    ] {
        let problems = load(&layers(directory.path(), Some((name, text)), &[], &[])).unwrap_err();
        assert_eq!(problems.0.len(), 1, "{text}: {problems}");
    }
    let missing = Layers { file: Some(directory.path().join("none.yaml")), ..Layers::default() };
    assert!(load(&missing).unwrap_err().to_string().contains("cannot be read"));
}

#[test]
fn an_empty_section_and_no_file_change_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let effective = load(&layers(directory.path(), Some(("a.yaml", "gateway:\n")), &[], &[])).unwrap();
    assert_eq!(effective.config, Config::default());
}

#[test]
fn every_option_takes_the_form_it_shows_and_is_documented() {
    let directory = tempfile::tempdir().unwrap();
    let defaults = Config::default();
    for option in OPTIONS {
        assert!(option.doc.join(" ").contains("Default: "), "{}", option.key);
        let shown = option.show(&defaults);
        let text = match &shown {
            Json::String(text) => text.clone(),
            Json::Array(items) => items
                .iter()
                .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
                .collect::<Vec<_>>()
                .join(","),
            other => other.to_string(),
        };
        let loaded = load(&layers(directory.path(), None, &[(option.variable().as_str(), &text)], &[]));
        assert_eq!(loaded.map(|effective| effective.config), Ok(defaults.clone()), "{} = {text}", option.key);
    }
}

#[test]
fn secrets_are_never_shown() {
    let directory = tempfile::tempdir().unwrap();
    let effective =
        load(&layers(directory.path(), None, &[("HEARTH_BUILD_ENV", "TOKEN=geheim")], &[])).unwrap();
    let shown: String =
        effective.entries().map(|(option, _)| option.show(&effective.config).to_string()).collect();
    assert!(!shown.contains("geheim") && !format!("{:?}", effective.config).contains("geheim"));
    let problems = load(&layers(directory.path(), None, &[("HEARTH_BUILD_ENV", "geheim")], &[]))
        .unwrap_err()
        .to_string();
    assert!(!problems.contains("geheim"), "{problems}");
}

#[test]
fn sizes_read_what_people_write() {
    use crate::serve::config::Value as _;
    let read = |text: &str| Size::read(&Json::from(text)).map(Size::as_bytes);
    for (text, bytes) in
        [("512", 512), ("64Mi", 64 << 20), ("1Gi", 1 << 30), ("1 Ki", 1024), ("2M", 2_000_000)]
    {
        assert_eq!(read(text), Ok(bytes), "{text}");
    }
    for wrong in ["", "Mi", "-1", "1.5Gi", "99999999999Gi", "64MB"] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
    assert_eq!(
        [Size::kib(1536).to_string(), Size::mib(64).to_string(), Size::bytes(1000).to_string()],
        ["1536Ki", "64Mi", "1000"]
    );
}
