use super::*;
#[test]
#[ignore]
fn try_it() {
    let epoch = Instant::now();
    let machine = Machine::default();
    let mut totals: Vec<Outcome> = vec![Outcome::default(); 5];
    for name in NAMES {
        let trace = shipped(name, 1).unwrap();
        println!("{name}: {} calls", trace.calls.len());
        for (number, (who, contender)) in Contender::all().into_iter().enumerate() {
            let then = Instant::now();
            let o = simulate(&trace, &contender, &machine, epoch);
            show(who, &o, then.elapsed());
            totals[number].add(&o);
        }
    }
    println!("TOTAL");
    for (number, (who, _)) in Contender::all().into_iter().enumerate() {
        show(who, &totals[number], Duration::ZERO);
    }
}
fn show(who: &str, o: &Outcome, took: Duration) {
    println!(
        "{who:20} {:7} cold {:5} prew {:5} refused {} starts {:5}+{:5} p50 {:6.0} p99 {:7.1} p99.9 {:7.1} inst-s {:9.0} pool-s {:8.0} mem {:7.2} wasted {:9.0}",
        o.served,
        o.cold,
        o.prewarmed,
        o.refused,
        o.cold_starts,
        o.pooled_starts,
        o.wait(50.0),
        o.wait(99.0),
        o.wait(99.9),
        o.instance_seconds,
        o.pool_seconds,
        o.memory_seconds / 1024.0 / 3600.0,
        o.wasted_seconds
    );
    let _ = took;
}

#[test]
#[ignore]
fn tune() {
    let epoch = Instant::now();
    let machine = Machine::default();
    for name in ["cron", "rare"] {
        let trace = shipped(name, 1).unwrap();
        println!("{name}");
        for price in [30, 60, 120, 240] {
            for history in [4, 8] {
                let mut policy = crate::Policy::default();
                policy.learning.price = Duration::from_secs(price);
                policy.learning.least_history = history;
                for pool in [None, Some(crate::pool::PoolPolicy::default())] {
                    let o = simulate(&trace, &Contender::Hearth(policy, pool), &machine, epoch);
                    show(&format!("{price} {history} {}", pool.is_some()), &o, Duration::ZERO);
                }
            }
        }
    }
}
