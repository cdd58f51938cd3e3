//! A runtime that is exercised before it knows its function, as a pooled instance is.

use std::collections::BTreeMap;
use std::fs;

use hearth_protocol::{Load, Loaded, LogStream};
use serde_json::json;

use crate::client::{Setup, Shim};

/// A pooled runtime that was pinged twice, and whose code has come meanwhile.
fn specialised(setup: Setup, files: &[(&str, &str)]) -> (Shim, crate::client::Caller) {
    // A pool does not know whether calls will run side by side.
    let shim = setup.with(|config| config.concurrency = 2).start();
    let mut caller = shim.invoke();
    caller.ping();
    caller.ping();
    for (name, text) in files {
        let path = shim.code().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    (shim, caller)
}

fn load(shim: &Shim, handler: &str, concurrency: u32) -> Load {
    let env = BTreeMap::from([("GREETING".to_owned(), "hi".to_owned())]);
    Load { env, concurrency, ..shim.load_request(handler) }
}

#[test]
fn an_exercised_node_is_as_good_as_a_fresh_one() {
    let code = "console.log('loaded');
        exports.handler = async () => { console.log('called'); require('child_process').execSync('echo child', { stdio: 'inherit' });
          return [process.env.GREETING, process.cwd(), Object.keys(require.cache).length]; };";
    let (shim, mut caller) = specialised(Setup::node(), &[("index.js", code)]);
    assert!(matches!(caller.load(load(&shim, "index.handler", 1)), Loaded::Ok { .. }));
    let answer = caller.call("r-1", &json!({}), b"").unwrap();
    let modules = {
        let fresh = Setup::node().file("index.js", code).start();
        let answer = fresh.loaded("index.handler").call("r-1", &json!({}), b"").unwrap();
        serde_json::from_slice::<serde_json::Value>(&answer.body).unwrap()[2].as_u64().unwrap()
    };
    let told: (String, String, u64) = serde_json::from_slice(&answer.body).unwrap();
    let directory = fs::canonicalize(shim.code()).unwrap();
    assert_eq!((told.0.as_str(), told.1.as_str()), ("hi", directory.to_str().unwrap()));
    // The bootstrap's own parts that a fresh one has not needed; none of the exercise's.
    assert!(told.2 >= modules && told.2 <= modules + 3, "{} modules, {modules} in a fresh one", told.2);
    let lines = shim.control(0).logs_until(|record| record.line.as_ref() == b"child");
    let told: Vec<_> = lines
        .iter()
        .map(|record| {
            let request = record.request_id.as_ref().map(|id| id.as_str().to_owned());
            (String::from_utf8_lossy(&record.line).into_owned(), request, record.shared)
        })
        .collect();
    let of = |request: Option<&str>, line: &str| (line.to_owned(), request.map(str::to_owned), false);
    assert_eq!(told, [of(None, "loaded"), of(Some("r-1"), "called"), of(Some("r-1"), "child")]);
}

#[test]
fn every_signature_of_node_works_after_the_exercise() {
    for (file, code, handler, signature) in [
        ("index.mjs", "export const handler = async () => 'ok';", "index.handler", "event"),
        ("index.mjs", "export default { fetch: () => new Response('ok') };", "index.default", "fetch"),
        ("index.js", "exports.serve = (req, res) => res.end('ok');", "index.serve", "http"),
    ] {
        let (shim, mut caller) = specialised(Setup::node(), &[(file, code)]);
        match caller.load(load(&shim, handler, 10)) {
            Loaded::Ok { signature: found } => {
                assert_eq!(serde_json::to_value(found).unwrap(), signature);
            }
            Loaded::Error(error) => panic!("{handler}: {error:?}"),
        }
    }
}

#[test]
fn an_exercised_python_is_as_good_as_a_fresh_one() {
    for def in ["def", "async def"] {
        // A module of the function's own goes before one that the exercise has imported.
        let files = [
            ("json.py", "value = 7\n"),
            (
                "main.py",
                &*format!(
                    "import os, sys, json, logging\nprint('loaded')\n{def} handler(event, context):\n    print('called')\n    \
                     rehearsed = sys.modules['hearth_exercise'].rehearsed\n    \
                     return [os.environ['GREETING'], os.getcwd(), json.value, logging.__name__, rehearsed > 0]\n"
                ),
            ),
        ];
        let (shim, mut caller) = specialised(Setup::python(), &files);
        let loaded = caller.load(load(&shim, "main.handler", 10));
        assert!(matches!(loaded, Loaded::Ok { .. }), "{loaded:?}");
        let answer = caller.call("r-1", &json!({}), b"").unwrap();
        let told: (String, String, u32, String, bool) = serde_json::from_slice(&answer.body).unwrap();
        let directory = fs::canonicalize(shim.code()).unwrap().to_str().unwrap().to_owned();
        assert_eq!(told, ("hi".to_owned(), directory, 7, "logging".to_owned(), true));
        let lines = shim.control(0).logs_until(|record| record.line.as_ref() == b"called");
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines.iter().all(|record| record.stream == LogStream::Stdout));
    }
}

#[test]
fn a_load_that_comes_right_behind_the_ping_is_answered() {
    for (setup, file, code, handler) in [
        (Setup::node(), "index.js", "exports.handler = async () => 'ok';", "index.handler"),
        (Setup::python(), "main.py", "def handler(event, context): return 'ok'\n", "main.handler"),
    ] {
        let shim = setup.file(file, code).start();
        let mut caller = shim.invoke();
        caller.send(&hearth_protocol::Frame::Ping(*b"exercise"));
        assert!(matches!(shim.invoke().load(load(&shim, handler, 1)), Loaded::Ok { .. }));
        assert_eq!(shim.invoke().call("r-1", &json!({}), b"").unwrap().text(), "\"ok\"");
    }
}

/// Counts the requests that the exercise's own handler gets; what goes wrong in the exercise is not told.
const COUNTED: &str = "
const path = require('path');
const of = (name) => path.join(process.argv[1], name);
const http = require(of('http.cjs'));
const { handler } = http;
let served = 0;
http.handler = (state, application, upgrade) =>
  handler(state, (request, response) => { served++; application(request, response); }, upgrade);
require(of('exercise.cjs')).exercise({ instance: 'i', secret: 's', memoryBytes: 1 << 26 }).then(() => process.exit(served));
";

#[test]
fn the_exercise_of_node_serves_a_request() {
    let bootstrap = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("bootstrap/node");
    let mut node = std::process::Command::new("node");
    let status = node.args(["-e", COUNTED]).arg(bootstrap).env_remove("NODE_OPTIONS").status().unwrap();
    assert_eq!(status.code(), Some(1));
}
