//! Whatever the text, it is answered; and what is written is read back.

use proptest::prelude::*;

use super::*;

fn every_place_is_inside(text: &str) -> Result<(), TestCaseError> {
    let lines = text.split('\n').count().max(text.split(['\n', '\r']).count());
    for problem in functions(text).into_iter().filter_map(Result::err).flatten() {
        let at = problem.position.expect("every problem of a text has its place");
        prop_assert!((1..=lines).contains(&at.line), "{problem}");
        prop_assert!(text.get(at.offset..at.offset + at.length).is_some(), "{problem} {at:?}");
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_text_is_answered(text in any::<String>()) {
        every_place_is_inside(&text)?;
    }

    #[test]
    fn any_text_like_yaml_is_answered(text in "([a-z]{1,3}|[-:{}\\[\\],#&*!|>'\"%@\\\\ \t\r\n]|é|\n  ){0,60}") {
        every_place_is_inside(&text)?;
    }

    #[test]
    fn a_damaged_manifest_is_answered(at in 0usize..200, length in 0usize..20, with in "[ -~\n\té]{0,6}") {
        let mut text = with_every_field();
        let start = at.min(text.len());
        let end = (start + length).min(text.len());
        text.replace_range(start..end, &with);
        every_place_is_inside(&text)?;
    }

    #[test]
    fn what_is_written_is_read_back(
        memory in 64u64..4096, cpu in proptest::option::of(10u32..4000), queue in 100u64..3_600_000,
        limit in proptest::option::of(1u32..1000), max in 1u32..1000, value in "\\PC{0,20}", path in "/[a-z]{0,8}",
    ) {
        let mut function = functions(HELLO).remove(0).unwrap();
        let spec = &mut function.spec;
        spec.resources.memory = crate::ByteSize::from_mebibytes(memory);
        spec.resources.cpu = cpu.map(crate::CpuMillis::from_millis);
        spec.timeouts.queue = crate::HumanDuration::from_millis(queue);
        spec.concurrency.limit = limit;
        spec.scale.max = max;
        spec.resources.tmp = (max % 2 == 0).then(|| crate::ByteSize::from_bytes(memory << 19));
        spec.env = vec![crate::spec::EnvVar { name: "A".to_owned(), value: Some(value), value_from: None }];
        spec.triggers = vec![serde_json::from_value(serde_json::json!({ "http": { "path": path } })).unwrap()];
        let text = serde_json::to_string(&function).unwrap();
        prop_assert_eq!(functions(&text), [Ok(function.clone())]);
        let yaml = serde_saphyr::to_string(&function).unwrap();
        prop_assert_eq!(functions(&yaml), [Ok(function)], "{}", yaml);
    }
}

fn with_every_field() -> String {
    with(
        "  env: [{ name: A, value: b }]\n  scale: { max: 3 }\n  triggers:\n    - http: { path: /x, methods: [GET] }\n",
    )
}
