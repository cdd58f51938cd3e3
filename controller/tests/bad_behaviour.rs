//! Functions, sources and clients that behave badly, each with a real container: what the caller is told, what becomes of the instance,
//! that a neighbour does not notice, and that nothing stays behind. Needs root.

#![expect(clippy::tests_outside_test_module, reason = "all of it is a test")]

mod support;

use support::http::Request;
use support::neighbour::Neighbour;
use support::{Hearth, node};

#[test]
fn a_handler_that_throws_costs_its_own_call_only() {
    let hearth = Hearth::alone(&[]);
    let neighbour = Neighbour::beside(&hearth);
    hearth.deploy(&node(
        "bad",
        "exports.handler = async (event) => {\n  if (event.rawQueryString === 'throw') throw new Error('no luck');\n  return process.env.HEARTH_INSTANCE;\n};",
    ));
    let before = hearth.get("/function/default/bad").text();
    neighbour.is_undisturbed_while(|| {
        let answer = hearth.send(&Request::get("/function/default/bad?throw"));
        assert_eq!((answer.status, answer.code().as_str()), (502, "function_error"), "{answer:?}");
    });
    assert_eq!(hearth.get("/function/default/bad").text(), before, "the same instance serves on");
    drop(neighbour);
    hearth.stop();
}
