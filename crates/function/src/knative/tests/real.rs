//! Services as people have them, with all that is said about them.

use std::fmt::Write as _;

use crate::parse_manifests;

/// What `hearth convert` says about each Service of a text.
fn told(text: &str) -> String {
    let mut told = String::new();
    for read in parse_manifests(text) {
        let (function, said) = match read {
            Ok(manifest) => (Some(manifest.function), manifest.warnings),
            Err(problems) => (None, problems),
        };
        for problem in said {
            let line = problem.position.map_or(0, |position| position.line);
            writeln!(told, "{line}: {}: {}", problem.path, problem.message).unwrap();
            if let Some(fix) = problem.fix {
                writeln!(told, "  {fix}").unwrap();
            }
        }
        let name = function.and_then(|function| function.metadata.name);
        writeln!(told, "-> {}", name.as_deref().unwrap_or("refused")).unwrap();
    }
    told
}

#[test]
fn a_shop_with_secrets_volumes_and_probes() {
    insta::assert_snapshot!(told(include_str!("shop.yaml")));
}

#[test]
fn a_grpc_server_with_a_place_to_run() {
    insta::assert_snapshot!(told(include_str!("grpc.yaml")));
}

#[test]
fn traffic_among_revisions() {
    insta::assert_snapshot!(told(include_str!("canary.yaml")));
}

#[test]
fn a_program_with_others_beside_it() {
    insta::assert_snapshot!(told(include_str!("sidecar.yaml")));
}

#[test]
fn services_of_older_versions() {
    insta::assert_snapshot!(told(include_str!("older.yaml")));
}

#[test]
fn a_variable_that_no_instance_has() {
    insta::assert_snapshot!(told(include_str!("downward.yaml")));
}
