//! A controller that is killed at whatever moment, in the middle of scaling out.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::slow;
use crate::support::http::Request;
use crate::support::{Hearth, eventually, leftovers, node_with};

const RESIDENT: &str = "/function/default/resident";
const EPHEMERAL: &str = "/function/default/ephemeral";

/// How often it is killed.
const ROUNDS: usize = 5;

/// Asks one request after the other, each over a connection of its own, until it is told to stop or finds nobody.
fn ask(gateway: SocketAddr, target: &str, stop: &AtomicBool, answered: &AtomicUsize) -> Vec<u16> {
    let mut wrong = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        // What breaks off does so because the server is killed.
        let Ok(answer) = Request::get(target).send(gateway) else { break };
        if answer.status != 200 {
            wrong.push(answer.status);
        }
        answered.fetch_add(1, Ordering::Relaxed);
    }
    wrong
}

/// Names of the instances that the server knows.
fn known(hearth: &Hearth) -> Option<BTreeSet<String>> {
    let output = hearth.cli(&["get", "instances", "-o", "json"]);
    let list: Value = serde_json::from_slice(&output.stdout).ok()?;
    let items = list.as_array().or_else(|| list["items"].as_array())?;
    Some(items.iter().filter_map(|item| Some(item["name"].as_str()?.to_owned())).collect())
}

/// Names of the instances that have processes, whoever knows them.
fn running(hearth: &Hearth) -> BTreeSet<String> {
    leftovers::instances(hearth.data_dir())
}

#[test]
fn a_controller_killed_at_any_moment_of_a_scale_out_orphans_nothing_and_serves_again() {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.subsec_nanos());
    let mut random = seed | 1;
    let mut below = |bound: u32| {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        random % bound
    };
    let mut hearth = Hearth::start(&[]);
    // What is adopted is held for a window.
    let scale = "{ initial: 0, max: 6, idleTimeout: 2s, window: 6s }";
    hearth.deploy(&node_with("resident", &slow(50), &format!("concurrency: {{ limit: 1 }}\nscale: {scale}")));
    hearth.deploy(&node_with("ephemeral", &slow(20), &format!("processModel: ephemeral\nscale: {scale}")));
    for round in 0..ROUNDS {
        // By answers, or earlier: by instances of which none has answered yet.
        let (answers, instances) = (below(40) as usize, below(4) as usize + 1);
        let by_answers = below(2) == 0;
        let told = format!("round {round}, HEARTH_SEED={seed}, {answers} answers or {instances} instances");
        let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
        let gateway = hearth.gateway();
        let wrong: Vec<u16> = thread::scope(|scope| {
            let clients: Vec<_> = [RESIDENT, EPHEMERAL]
                .into_iter()
                .flat_map(|target| [target; 4])
                .map(|target| scope.spawn(|| ask(gateway, target, &stop, &answered)))
                .collect();
            let moment = eventually(|| {
                let now = if by_answers {
                    answered.load(Ordering::Relaxed) >= answers
                } else {
                    running(&hearth).len() >= instances
                };
                now.then_some(())
            });
            hearth.kill();
            stop.store(true, Ordering::Relaxed);
            assert!(moment.is_some(), "{told}\n{}", hearth.own_log());
            clients.into_iter().flat_map(|client| client.join().expect("a client does not panic")).collect()
        });
        assert_eq!(wrong, Vec::<u16>::new(), "{told}\n{}", hearth.own_log());
        hearth.restart();
        for target in [RESIDENT, EPHEMERAL] {
            let answer = hearth.get(target);
            assert_eq!(answer.status, 200, "{told}: {}\n{}", answer.text(), hearth.own_log());
        }
        // Adopted or reaped: whatever has a process is known.
        let strangers = || known(&hearth).map(|known| running(&hearth).difference(&known).count());
        assert!(eventually(|| (strangers()? == 0).then_some(())).is_some(), "{told}\n{}", hearth.own_log());
    }
    let zero = eventually(|| (hearth.instance_processes() == 0).then_some(()));
    assert!(zero.is_some(), "somebody stays: {:?}\n{}", running(&hearth), hearth.own_log());
    hearth.stop();
}
