//! Revisions come and go while instances are granted.

use std::sync::{Arc, Barrier};
use std::time::Duration;

use hearth_dispatch::{Endpoint, EndpointAddress, Forwarding, StartKind, ToGateway};
use tokio::sync::mpsc;

use super::rig::{id, revision, served};
use crate::gateway::Timeouts;
use crate::gateway::outbox::Outbox;
use crate::gateway::revisions::{Leads, Revisions};
use crate::gateway::stats::Stats;
use crate::telemetry::metrics::Registry;

#[test]
fn a_grant_before_its_revision_serves_is_not_lost_to_a_change_of_routes() {
    const ROUNDS: usize = 2000;
    let (to_scaler, _told) = mpsc::channel(1);
    let stats = Arc::new(Stats::new(&Registry::new()));
    let outbox = Arc::new(Outbox::new(to_scaler, stats.messages_dropped.clone()));
    let revisions = Revisions::new(8, outbox, stats, None);
    let together = Barrier::new(2);
    let endpoint = Endpoint {
        instance: id("i1"),
        address: EndpointAddress::Unix("/nowhere".into()),
        secret: String::new(),
        forwarding: Forwarding::Event,
        start: StartKind::Cold,
        start_time: Duration::ZERO,
        single_use: false,
        reserved: false,
        own_server: false,
    };
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
