//! Revisions come and go while instances are granted.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use hearth_dispatch::{
    Admission, Endpoint, EndpointAddress, Forwarding, Origin, StartKind, ToGateway, ToScaler,
};
use tokio::sync::mpsc;

use super::rig::{id, revision, served};
use crate::gateway::Timeouts;
use crate::gateway::outbox::Outbox;
use crate::gateway::revisions::{Leads, Revisions, now};
use crate::gateway::stats::Stats;
use crate::telemetry::metrics::Registry;

fn endpoint(instance: &str, single_use: bool) -> Endpoint {
    Endpoint {
        instance: id(instance),
        address: EndpointAddress::Unix("/nowhere".into()),
        secret: String::new(),
        forwarding: Forwarding::Event,
        start: StartKind::Cold,
        start_time: Duration::ZERO,
        single_use,
        reserved: false,
        own_server: false,
    }
}

#[test]
fn a_grant_before_its_revision_serves_is_not_lost_to_a_change_of_routes() {
    const ROUNDS: usize = 2000;
    let (to_scaler, _told) = mpsc::channel(1);
    let stats = Arc::new(Stats::new(&Registry::new()));
    let outbox = Arc::new(Outbox::new(to_scaler, stats.messages_dropped.clone()));
    let revisions = Revisions::new(8, outbox, stats, None);
    let together = Barrier::new(2);
    let endpoint = endpoint("i1", false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            for _ in 0..ROUNDS {
                together.wait();
                revisions.serve(Vec::new(), Vec::new());
                together.wait();
            }
        });
        for round in 0..ROUNDS {
            together.wait();
            let grant = ToGateway::Grant { revision: revision(), endpoint: endpoint.clone(), slots: 1 };
            revisions.on_message(grant);
            together.wait();
            revisions.serve(vec![served(Timeouts::default())], Vec::new());
            let routes = revisions.routes.load();
            let Some(Leads::To(target)) = routes.targets().next() else { panic!("it is served") };
            let instances = target.revision.with(|state, _| state.instances().count());
            assert_eq!(instances, 1, "round {round}: the slot is where requests look for it");
            revisions.serve(Vec::new(), Vec::new());
            revisions.on_message(ToGateway::Gone { instance: id("i1"), reason: String::new() });
        }
    });
}

#[test]
fn no_report_that_the_scaler_gets_is_older_than_the_end_of_a_call_it_has_heard_of() {
    const CALLS: usize = 5000;
    // Room for all: what ends, what is reported beside it, and a last word.
    let (to_scaler, mut told) = mpsc::channel(256 * CALLS);
    let stats = Arc::new(Stats::new(&Registry::new()));
    let outbox = Arc::new(Outbox::new(to_scaler, stats.messages_dropped.clone()));
    let revisions = Revisions::new(8, outbox, stats, None);
    revisions.serve(vec![served(Timeouts::default())], Vec::new());
    let over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        // More than there are cores: one is now and then held up between looking and telling.
        for _ in 0..4 {
            threads.spawn(|| {
                while !over.load(Ordering::Acquire) {
                    revisions.report();
                }
            });
        }
        for number in 0..CALLS {
            let endpoint = endpoint(&format!("i{number}"), true);
            revisions.on_message(ToGateway::Grant { revision: revision(), endpoint, slots: 1 });
            let routes = revisions.routes.load();
            let Some(Leads::To(target)) = routes.targets().next() else { panic!("it is served") };
            let admitted = target
                .revision
                .with(|state, _| state.on_request(now(), Origin::New, |_| unreachable!("the slot is free")));
            let Admission::Forward(placement) = admitted else { panic!("the slot is free") };
            target.revision.with(|state, actions| {
                let took = Some(Duration::from_millis(1));
                state.on_slot_free(now(), &placement.instance, placement.grant, took, actions);
            });
        }
        over.store(true, Ordering::Release);
    });
    let mut ended = HashSet::new();
    while let Ok(message) = told.try_recv() {
        match message {
            ToScaler::Spent { instance } => {
                ended.insert(instance);
            }
            ToScaler::Load(report) => {
                let stale = report.busy.iter().find(|(instance, _)| ended.contains(instance));
                assert_eq!(stale, None, "after {} calls", ended.len());
            }
            _ => {}
        }
    }
    assert_eq!(ended.len(), CALLS);
}
