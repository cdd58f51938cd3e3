//! Pods of an earlier controller, and of others: which are instances of this Hearth, and what is known of them.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::instance::{self, Instance};
use super::standing::{self, Judged, Proof};
use super::whereabouts::Whereabouts;
use super::{Shared, pod, started, why};
use crate::backend::Found;

/// Of Pods that are none of this Hearth's though they say so, so many are named.
const FOREIGN_NAMED: usize = 8;

impl Shared {
    /// What these Pods are. What is no instance of this Hearth is left alone, and said.
    pub(super) fn found(&self, pods: &[Pod]) -> Vec<Found> {
        let mut found = Vec::new();
        let mut judged = Vec::new();
        let mut foreign = Foreign::default();
        for pod in pods {
            match self.of_pod(pod) {
                Some(known) => found.extend(Self::known(&known, pod)),
                None => match standing::judge(pod, &self.config.namespace, &self.keys) {
                    Ok(one) => judged.push((pod, one)),
                    Err(why) => foreign.add(pod, why),
                },
            }
        }
        // Instances are known by their names: of two Pods of one name, in two namespaces, the one that can prove it.
        judged.sort_by_key(|(_, one)| one.proof);
        for (pod, one) in judged {
            match self.find(&one.spec.id) {
                Some(_) => foreign.add(pod, "there is an instance of its name in another namespace"),
                None => found.push(self.adopt(pod, one)),
            }
        }
        foreign.say();
        found
    }

    /// Takes a Pod of an earlier controller into the books.
    fn adopt(&self, pod: &Pod, Judged { mut spec, proof }: Judged) -> Found {
        spec.secret = self.keys.secret(&spec.id);
        let status = pod.status.as_ref();
        let address = status.and_then(|status| status.pod_ip.as_ref()?.parse().ok());
        let reported = address.map(|address| {
            instance::Reported::at(
                address,
                hearth_protocol::report::INVOKE_PORT,
                hearth_protocol::report::CONTROL_PORT,
            )
        });
        // What is not up yet is not waited for: whoever started it is gone. But its node tells that later than its shim, so there may be
        // calls in it.
        let up = status.and_then(|status| status.phase.as_deref()) == Some("Running");
        // Nor does what nothing proves get calls.
        let given_up = (!up || reported.is_none() || proof == Proof::Nothing).then_some(pod::GRACE);
        let ended = why::ended(pod);
        let taken_away = why::leaves_within(pod).or(given_up).filter(|_| ended.is_none());
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let instance = {
            let mut books = self.books();
            let known = books.entry(spec.id.clone());
            Arc::clone(known.or_insert_with(|| Arc::new(Instance::new(spec.clone(), &namespace))))
        };
        instance.whereabouts.send_replace(Whereabouts::of(pod));
        instance.reported.send_if_modified(|known| {
            let news = known.is_none() && reported.is_some();
            if news {
                *known = reported;
            }
            news
        });
        instance.start_is_over();
        if taken_away.is_some() {
            let _told_by_the_list = instance.leaves();
        }
        if let Some(exit) = ended {
            // Whoever lists learns it by the list.
            instance.note_end(exit);
            let _told = instance.untold_end();
        }
        let none = || instance::Reported::at(std::net::Ipv4Addr::UNSPECIFIED.into(), 0, 0);
        let reported = instance.reported.borrow().unwrap_or_else(none);
        let started = started(reported, instance.took(Duration::ZERO));
        Found { spec, started, ended, taken_away }
    }

    /// What is found of an instance that is in the books: they know more than a status, which its node writes later.
    fn known(instance: &Arc<Instance>, pod: &Pod) -> Option<Found> {
        // One that is being started is its start's to tell of.
        let reported = (*instance.reported.borrow()).filter(|_| instance.is_started())?;
        if let Some(exit) = why::ended(pod) {
            instance.note_end(exit);
        }
        let ended = *instance.end.borrow();
        Some(Found {
            spec: instance.spec(),
            started: started(reported, instance.took(Duration::ZERO)),
            ended,
            taken_away: why::leaves_within(pod).filter(|_| ended.is_none()),
        })
    }
}

/// Pods that say they are of this Hearth and are not.
#[derive(Debug, Default)]
struct Foreign {
    count: usize,
    /// Some of them, for people.
    named: Vec<String>,
}

impl Foreign {
    fn add(&mut self, pod: &Pod, why: &str) {
        self.count += 1;
        if self.named.len() < FOREIGN_NAMED {
            let metadata = &pod.metadata;
            let [namespace, name] =
                [&metadata.namespace, &metadata.name].map(|part| part.as_deref().unwrap_or_default());
            self.named.push(format!("{namespace}/{name}: {why}"));
        }
    }

    fn say(self) {
        if self.count > 0 {
            let (count, pods) = (self.count, self.named.join("; "));
            tracing::warn!(
                count,
                pods,
                "Pods have the labels of instances and are none of this Hearth: they are left alone"
            );
        }
    }
}
