//! Manifests as people write them, right and wrong.

use super::*;

mod properties;

/// What is declared, without the warnings.
fn functions(text: &str) -> Vec<Result<Function, Vec<Problem>>> {
    parse_manifests(text).into_iter().map(|read| read.map(|manifest| manifest.function)).collect()
}

const HELLO: &str = "\
apiVersion: hearth.dev/v1
kind: Function
metadata: { name: hello }
spec:
  runtime: nodejs
  source: { path: . }
  handler: index.handler
";

/// What is said about a text: a line for each Function and each problem.
fn report(text: &str) -> String {
    let mut out = String::new();
    for read in functions(text) {
        match read {
            Ok(function) => out.push_str(&format!("ok {}\n", function.metadata.name.unwrap_or_default())),
            Err(problems) => problems.iter().for_each(|problem| out.push_str(&format!("{problem}\n"))),
        }
    }
    out
}

fn with(lines: &str) -> String {
    format!("{HELLO}{lines}")
}

#[test]
fn every_field_of_the_design_is_read() {
    let text = "\
apiVersion: hearth.dev/v1
kind: Function
metadata: { name: hello, namespace: default }
spec:
  runtime: nodejs20
  source: { path: ./hello }
  handler: index.handler
  signature: auto
  env: [{ name: GREETING, value: hi }]
  resources: { memory: 128Mi, cpu: 500m, tmp: 64Mi }
  network: outbound
  timeouts: { queue: 30s, start: 60s, execute: 30s, idleStream: 60s }
  processModel: resident
  concurrency: { limit: 10, target: 70% }
  scale: { min: 0, max: 20, initial: 1, activation: 2, metric: concurrency, window: 60s, scaleDownDelay: 5m, idleTimeout: 60s, keepAlive: fixed, pause: off }
  triggers:
    - http: { path: /hello, pathType: Prefix, methods: [GET, POST], host: \"\", auth: none }
  traffic: [{ latest: true, percent: 100 }]
";
    assert_eq!(report(text), "ok hello\n");
    let pods = "  env:
    - { name: A, valueFrom: { secretKeyRef: { name: keys.example, key: tls.key, optional: true } } }
    - { name: B, valueFrom: { configMapKeyRef: { name: settings, key: LEVEL_1 } } }
  kubernetes:
    serviceAccount: robot
    nodeSelector: { topology.kubernetes.io/zone: a, spare: \"\" }
    tolerations:
      - { operator: Exists }
      - { key: example.com/gpu, value: big, effect: NoExecute, tolerationSeconds: 60 }
    imagePullSecrets: [{ name: registry }]
";
    assert_eq!(report(&with(pods)), "ok hello\n");
    let function = functions(text).remove(0).unwrap();
    let plain = functions(HELLO).remove(0).unwrap();
    assert_eq!(function.spec.resources.cpu.map(|cpu| cpu.millis()), Some(500));
    assert_eq!(function.spec.scale.pause, Some(crate::spec::Pause::Off));
    // What the design writes out is what holds without it.
    assert_eq!(function.spec.timeouts, plain.spec.timeouts);
    assert_eq!(function.spec.concurrency_limit(), plain.spec.concurrency_limit());
    assert_eq!(function.spec.resources.memory, plain.spec.resources.memory);
    assert_eq!(function.spec.resources.tmp(), plain.spec.resources.tmp());
    assert_eq!(
        (function.spec.scale.min, function.spec.scale.max),
        (plain.spec.scale.min, plain.spec.scale.max)
    );
}

#[test]
fn documents_are_read_one_by_one() {
    let bad = HELLO.replace("runtime: nodejs", "runtime: ruby");
    let text =
        format!("# a comment\n---\n{HELLO}---\n---\n{bad}---\n{}", HELLO.replace("name: hello", "name: two"));
    let said = "\
ok hello
16:12 spec.runtime: \"ruby\" is not a runtime; write one of nodejs, python, http, exec
ok two
";
    assert_eq!(report(&text), said);
    assert_eq!(report(""), "");
    assert_eq!(report("---\n# nothing\n"), "");
}

#[test]
fn the_items_of_a_list_are_documents_with_their_places() {
    let item = |name: &str, more: &str| {
        let text = HELLO.replace("hello", name) + more;
        let lines: Vec<String> = text.lines().map(|line| format!("  {line}\n")).collect();
        lines.concat().replacen("  api", "- api", 1)
    };
    let wrong = item("two", "  netwrk: none\n").replace("runtime: nodejs", "runtime: ruby");
    let twice = item("three", "  runtime: python\n");
    let text = format!(
        "apiVersion: v1\nitems:\n{}{wrong}{twice}kind: List\nmetadata: {{ resourceVersion: \"\" }}\n---\n{HELLO}",
        item("one", "")
    );
    let said = "\
ok one
14:14 spec.runtime: \"ruby\" is not a runtime; write one of nodejs, python, http, exec
17:5 spec.netwrk: unknown field `netwrk`; did you mean `network`?
25:5 `runtime` is given twice, first on line 22; keep one of them
ok hello
";
    assert_eq!(report(&text), said);
    let place = locate(&text, 2, "spec.source.path").unwrap();
    assert_eq!((place.line, place.column), (23, 21));

    assert_eq!(report("apiVersion: v1\nkind: List\nitems: []\n"), "");
    assert!(report("apiVersion: v1\nkind: List\n").contains("has its objects in `items`"));
}

#[test]
fn what_was_read_from_a_cluster_is_declared_without_what_others_wrote_into_it() {
    let metadata = "metadata:
  name: hello
  uid: 0a
  resourceVersion: '7'
  generation: 3
  creationTimestamp: '2026-01-01T00:00:00Z'
  finalizers: [hearth.dev/instances]
  annotations: { hearth.dev/installation: a, hearth.dev/retry: b }
  managedFields: [{ manager: kubectl, operation: Update, apiVersion: hearth.dev/v1, fieldsType: FieldsV1, fieldsV1: {} }]
";
    let text = HELLO.replace("metadata: { name: hello }\n", metadata) + "status: { observedGeneration: 3 }\n";
    assert_eq!(functions(&text), functions(HELLO));
    let own = text
        .replace("a, hearth.dev/retry: b", "a, note: b")
        .replace("[hearth.dev/instances]", "[x.example/y]");
    let kept = functions(&own).remove(0).unwrap().metadata;
    assert_eq!(kept.finalizers.as_deref(), Some(&["x.example/y".to_owned()][..]));
    assert_eq!(
        kept.annotations.map(|kept| kept.into_keys().collect::<Vec<_>>()),
        Some(vec!["note".to_owned()])
    );
}

#[test]
fn json_is_read_too() {
    let function = functions(HELLO).remove(0).unwrap();
    let json = serde_json::to_string_pretty(&function).unwrap();
    assert_eq!(functions(&json), [Ok(function)]);
}

#[test]
fn problems_have_their_place() {
    let text = "apiVersion: hearth.dev/v1\nkind: Function\nmetadata: { name: hello }\nspec:\n  runtime: nodejs\n  source: { path: . }\n  hander: \"é\"\n  scale: { max: many }\n";
    let problems = functions(text).remove(0).unwrap_err();
    let marked: Vec<&str> = problems
        .iter()
        .map(|problem| problem.position.unwrap())
        .map(|at| &text[at.offset..at.offset + at.length])
        .collect();
    assert_eq!(marked, ["hander", "\"é\"", "many"]);
    let marked = functions(&format!("\u{feff}{text}")).remove(0).unwrap_err();
    let at = marked[0].position.unwrap();
    assert_eq!(
        (at.line, at.column, &format!("\u{feff}{text}")[at.offset..at.offset + at.length]),
        (7, 3, "hander")
    );
}

/// Bad manifests and what is said about them: what was written, and the lines that come back.
#[test]
fn every_mistake_is_named_with_its_fix() {
    let cases: Vec<(&str, String)> = vec![
        ("an empty object", "{}".to_owned()),
        ("a text", "hello".to_owned()),
        (
            "another kind",
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: { name: x }\nspec: {}\n".to_owned(),
        ),
        ("another version", HELLO.replace("hearth.dev/v1", "hearth.dev/v2")),
        (
            "slips in names",
            with("  timeouts: { execut: 5s }\n  scale: { idle_timeout: 5s }\n  trigers: []\n"),
        ),
        ("fields in the wrong place", with("  memory: 128Mi\n  timeout: 5s\n  replicas: 3\n  banana: 1\n")),
        (
            "wrong kinds of values",
            with(
                "  command: ./x\n  env: { A: b }\n  scale: { max: \"3\", min: [] }\n  concurrency: { limit: 1.5 }\n",
            ),
        ),
        (
            "numbers where text is wanted",
            with(
                "  env:\n    - { name: A, value: 8080 }\n    - { name: B, value: yes }\n    - { name: C, value: null }\n",
            ),
        ),
        (
            "values without units",
            with(
                "  timeouts: { queue: 30, start: 1 minute, execute: \"30\" }\n  resources: { memory: 128MB, cpu: half }\n  concurrency: { target: 0.7 }\n",
            ),
        ),
        (
            "words",
            with(
                "  network: out\n  signature: lambda\n  processModel: resdent\n  triggers: [{ http: { path: /, methods: [get, BREW], auth: jwt } }]\n",
            ),
        ),
        ("runtimes", HELLO.replace("runtime: nodejs", "runtime: nodejs18")),
        ("no name", HELLO.replace("{ name: hello }", "{}")),
        ("a bad name", HELLO.replace("name: hello", "name: My_Function, namespace: \"-\"")),
        ("a long name", HELLO.replace("name: hello", &format!("name: {}", "x".repeat(60)))),
        ("labels", HELLO.replace("name: hello", "name: hello, labels: { \"a b\": c, d: \"e/f\" }")),
        ("two sources", HELLO.replace("{ path: . }", "{ path: ., inline: { index.js: \"\" } }")),
        ("no source", HELLO.replace("{ path: . }", "{}")),
        (
            "inline files",
            HELLO.replace("{ path: . }", "{ inline: { main.js: \"\", ../x: \"\", a: \"\", a/b: \"\" } }"),
        ),
        ("no handler", HELLO.replace("  handler: index.handler\n", "")),
        ("a file for a handler", HELLO.replace("index.handler", "index.js")),
        ("no command", HELLO.replace("nodejs", "http").replace("  handler: index.handler\n", "")),
        ("a handler for a server", HELLO.replace("nodejs", "http")),
        ("a command for node", with("  command: [node, x.js]\n  signature: wsgi\n")),
        (
            "environment",
            with(
                "  env:\n    - { name: 1A }\n    - { name: PORT, value: \"1\" }\n    - { name: HEARTH_X }\n    - { name: X }\n    - { name: X }\n    - { name: Y, value: a, valueFrom: { secretKeyRef: { name: s, key: k } } }\n",
            ),
        ),
        (
            "where values are kept",
            with(
                "  env:\n    - { name: A, valueFrom: {} }\n    - { name: B, valueFrom: { secretKeyRef: { name: s, key: k }, configMapKeyRef: { name: s, key: k } } }\n    - { name: C, valueFrom: { secretKeyRef: { name: S_1, key: a/b } } }\n    - { name: D, valueFrom: { fieldRef: { fieldPath: metadata.name } } }\n",
            ),
        ),
        (
            "pods",
            with(
                "  kubernetes:\n    serviceAcount: robot\n    nodeSelector: { \"a b\": c, zone: \"x/y\" }\n    tolerations:\n      - {}\n      - { key: gpu, operator: Exists, value: \"yes\" }\n      - { key: gpu, value: \"yes\", effect: NoSchedule, tolerationSeconds: 5 }\n      - { key: gpu, effect: noexecute }\n    imagePullSecrets: [{ name: My_Registry }]\n",
            ),
        ),
        ("a memory that is too little for any", with("  resources: { memory: 1Mi }\n")),
        ("a percentage", with("  concurrency: { target: 150% }\n")),
        (
            "a handler and files for a server",
            HELLO.replace("nodejs", "http").replace("{ path: . }", "{ inline: { index.js: \"\" } }"),
        ),
        ("sizes", with("  resources: { memory: 20Mi, cpu: 1m, tmp: 0 }\n")),
        ("tmp above memory", with("  resources: { memory: 64Mi, tmp: 128Mi }\n")),
        ("times", with("  timeouts: { queue: 0s, start: 2h, execute: 1ms, idleStream: 0s }\n")),
        (
            "scale",
            with(
                "  scale: { min: 30, max: 10, initial: 11, activation: 12, window: 1s, scaleDownDelay: 2h, idleTimeout: 0s }\n",
            ),
        ),
        ("no instances", with("  scale: { max: 0 }\n")),
        (
            "ephemeral and concurrent",
            with("  processModel: ephemeral\n  concurrency: { limit: 5, target: 0% }\n"),
        ),
        (
            "routes",
            with(
                "  triggers:\n    - http: { path: hello }\n    - http: { path: \"/a?b\" }\n    - http: { path: /a/../b }\n    - http: { path: /function/x }\n    - http: { path: /x, host: \"API.example.com:80\" }\n    - {}\n    - { http: { path: /y }, cron: { schedule: \"* * * * *\" } }\n",
            ),
        ),
        (
            "repeated routes",
            with(
                "  triggers:\n    - http: { path: /a, methods: [GET, GET] }\n    - http: { path: /a, methods: [POST] }\n    - http: { path: /a }\n",
            ),
        ),
        (
            "traffic",
            with(
                "  traffic: [{ percent: 50 }, { latest: true, revision: a, percent: 20 }, { revision: b, percent: 10, tag: B }, { revision: b, percent: 30 }]\n",
            ),
        ),
        (
            "traffic that is not built",
            with(
                "  traffic: [{ revision: hello-00002, percent: 90 }, { latest: true, percent: 10, tag: canary }]\n",
            ),
        ),
        (
            "what is not built",
            with(
                "  scale: { metric: rps, keepAlive: learned, pause: 10s, reserved: [{ schedule: \"0 8 * * 1-5\", duration: 10h, count: 3 }] }\n  triggers:\n    - cron: { schedule: \"*/5 * * * *\", timezone: UTC }\n    - event: { type: order.created, source: \"\" }\n",
            ),
        ),
        (
            "a repository",
            HELLO.replace("{ path: . }", "{ git: { url: \"ssh://example.com/x.git\", ref: main } }"),
        ),
        ("an archive", HELLO.replace("{ path: . }", "{ archive: { url: \"ftp://x\", sha256: abc } }")),
        (
            "a runtime that is not built",
            HELLO.replace("nodejs", "provided").replace("  handler: index.handler\n", ""),
        ),
        ("a key twice", with("  network: none\n  network: outbound\n")),
        ("a merge key", format!("x: &x {{ a: b }}\n{HELLO}  timeouts: {{ <<: *x }}\n")),
        ("a tag", with("  network: !secret none\n")),
        ("a tab", with("\tnetwork: none\n")),
        ("bad indentation", with(" network: none\n")),
        (
            "one mistake in a misspelt section",
            HELLO.replace("{ path: . }", "\n    inlin: { index.js: 3, main.js: \"\" }"),
        ),
        ("a section under another name", HELLO.replace("source: { path: . }", "inline: { index.js: \"\" }")),
        (
            "fields of spec beside it",
            "apiVersion: hearth.dev/v1\nkind: Function\nmetadata: { name: hello }\nruntime: nodejs\nhandler: a.b\nsource: {}\n"
                .to_owned(),
        ),
        (
            "texts for objects",
            HELLO.replace("{ path: . }", "./code").replace("{ name: hello }", "hello")
                + "  triggers: [{ http: /x }]\n  env: [A=1]\n",
        ),
        ("a list of files", HELLO.replace("{ path: . }", "{ inline: [index.js] }")),
        ("names from elsewhere", with("  enviroment: []\n  scale: { mx: 3 }\n  timeouts: { que: 3s }\n")),
        (
            "rules under misspelt names",
            with("  scal: { mn: 5, mx: 3 }\n  resource: { memry: 64Mi, tmp: 128Mi }\n"),
        ),
        ("what follows from a bad value", with("  scale: { min: 50, max: many }\n  resources: { memory: 2GB, tmp: 1Gi }\n")),
        ("sizes without units", with("  resources: { memory: 128, tmp: 16 }\n")),
        ("times of other units", with("  timeouts: { queue: 3 min, execute: 1d, start: 1us }\n")),
        ("an alias", with("  scale: &s { max: 3 }\n  concurrency: *s\n")),
        ("an unknown alias", with("  network: *x\n")),
        ("a quote in quotes", with("  env: [{ name: A, value: 'it's' }]\n")),
        ("a character", with("  network: @x\n")),
        ("an open quote", with("  network: \"none\n")),
        ("an open bracket", with("  command: [a, b\n")),
        ("a colon in text", with("  network: a: b\n")),
    ];
    let text: String = cases.iter().map(|(name, text)| format!("## {name}\n{}\n", report(text))).collect();
    insta::assert_snapshot!("mistakes", text);
    for (name, text) in &cases {
        assert!(!report(text).contains("ok "), "{name} was taken");
    }
}

#[test]
fn every_problem_of_a_text_has_its_fix() {
    for text in [HELLO.replace(": ", " "), HELLO.replace('\n', "\n "), "- a\n".to_owned(), "%x\n".to_owned()]
    {
        let problems = functions(&text).into_iter().filter_map(Result::err).flatten();
        let without: Vec<String> =
            problems.filter(|problem| problem.fix.is_none()).map(|problem| problem.to_string()).collect();
        assert_eq!(without, Vec::<String>::new());
    }
}

#[test]
fn what_a_caller_finds_is_told_with_the_rest_and_in_its_place() {
    let told = |text: &str| {
        let read = parse_manifests_with(text, &mut |function| {
            let path = function.spec.source.path.clone().unwrap_or_default();
            vec![
                Problem::new("spec.source.path", format!("there is no {path}"), None),
                Problem::new("spec.handler", "there is no such file", None).following_from(&["spec.source"]),
            ]
        });
        let problems = read.into_iter().filter_map(Result::err).flatten();
        problems.map(|problem| format!("{problem}\n")).collect::<String>()
    };
    let both = "6:19 spec.source.path: there is no .\n7:12 spec.handler: there is no such file\n";
    assert_eq!(told(HELLO), both);
    assert_eq!(
        told(&with("  netwrk: none\n")),
        format!("{both}8:3 spec.netwrk: unknown field `netwrk`; did you mean `network`?\n")
    );
    // Under a misspelt name it is found as well, and what follows from a field that cannot be read is not told.
    let misspelt = told(&HELLO.replace("source:", "sorce:"));
    assert!(misspelt.contains("6:18 spec.sorce.path: there is no ."), "{misspelt}");
    let unread = told(&HELLO.replace("{ path: . }", "3"));
    assert_eq!(unread.lines().count(), 1, "{unread}");
}

#[test]
fn a_field_is_found_again_in_its_text() {
    let one = with("");
    let text = format!("\n---\n{one}---\n# nothing\n---\n{one}");
    for document in [0, 1] {
        let place = locate(&text, document, "spec.source.path").unwrap();
        assert_eq!(text.get(place.offset..place.offset + place.length), Some("."));
        let before = text.get(..place.offset).unwrap();
        assert_eq!(before.matches("runtime:").count(), document + 1, "{place:?}");
        assert_eq!(before.matches('\n').count() + 1, place.line);
    }
    assert_eq!(locate(&text, 2, "spec.source.path"), None);
}

#[test]
fn an_alias_stands_for_what_it_names() {
    let text = with("  env:\n    - &first { name: A, value: &v x }\n    - { name: B, value: *v }\n");
    let function = functions(&text).remove(0).unwrap();
    assert_eq!(function.spec.env[1].value.as_deref(), Some("x"));
}

#[test]
fn a_bomb_does_not_go_off() {
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let list = vec![format!("*a{}", level - 1); 10].join(", ");
        laughs.push_str(&format!("a{level}: &a{level} [{list}]\n"));
    }
    assert!(report(&laughs).contains("too large for a manifest"), "{}", report(&laughs));

    let mut chain = String::from("a0: &a0 [x]\n");
    for level in 1..200 {
        chain.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
    }
    assert!(report(&chain).contains("deep"), "{}", report(&chain));
    // The parser's own limit comes first here.
    let nested = report(&"[".repeat(10_000));
    assert!(nested.contains("recursion limit"), "{nested}");
    assert!(report(&"- ".repeat(10_000)).contains("deep"));
    assert!(report("a: &a [*a]\n").contains("inside of what it stands for"), "{}", report("a: &a [*a]\n"));
    assert!(report(&format!("\"{}\": 1\n", "k".repeat(500))).contains("too long for a key"));
    let wide: String = (0..60_000).map(|index| format!("k{index}: 1\n")).collect();
    assert!(report(&wide).contains("too large for a manifest"));
    assert!(report(&"#\n".repeat(9 * 1024 * 1024)).contains("at most"));
}

#[test]
fn a_knative_service_is_read_as_a_function_and_each_warning_has_its_line() {
    let text = "\
apiVersion: serving.knative.dev/v1
kind: Service
metadata: { name: hello }
spec:
  template:
    spec:
      containers:
        - image: hello
          readinessProbe: { tcpSocket: { port: 8080 } }
          resources: { limits: { memory: many } }
";
    let problems = functions(text).remove(0).unwrap_err();
    assert!(
        problems.iter().any(|problem| problem.message.starts_with("as a Function, spec.resources.memory"))
    );

    let manifest = parse_manifests(&text.replace("many", "64Mi")).remove(0).unwrap();
    assert_eq!(manifest.function.metadata.name.as_deref(), Some("hello"));
    let lines: Vec<_> = manifest.warnings.iter().map(|warning| warning.position.unwrap().line).collect();
    assert_eq!(lines, [9]);
}
