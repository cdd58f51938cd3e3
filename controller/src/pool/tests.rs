use std::time::Duration;

use tempfile::TempDir;
use tokio::time::timeout;

use super::staged::Staged;
use super::*;
use crate::telemetry::logs::Limits;

/// A pool over a staged backend.
struct Scene {
    backend: Arc<Staged>,
    pool: Pool,
    directory: TempDir,
}

fn hello() -> Arc<Template> {
    let revision = template::tests::revision("hello-00001", serde_json::json!({}));
    let places = Places { code: Some("/code".into()), ..Places::default() };
    Arc::new(Template::new(&revision, places).unwrap())
}

impl Scene {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        Self::over(Staged::new(directory.path()), directory)
    }

    fn over(backend: Arc<Staged>, directory: TempDir) -> Self {
        let (logs, writer) = Logs::open(directory.path().join("logs"), Limits::default()).unwrap();
        std::thread::spawn(move || writer.run());
        let pool = Pool::new(Arc::clone(&backend) as Arc<dyn Backend>, logs);
        Self { backend, pool, directory }
    }

    /// An instance that can take calls.
    async fn ready(&mut self) -> InstanceId {
        let instance = self.pool.start(&hello(), Duration::ZERO, false);
        self.until(|happened| matches!(happened, Happened::Ready { .. })).await;
        instance
    }

    async fn until(&mut self, is: impl Fn(&Happened) -> bool) {
        let happening = async { while !is(&self.pool.next().await.what) {} };
        timeout(Duration::from_secs(600), happening).await.expect("silence");
    }

    /// How often each instance was refused a process, as the next measurement has it.
    async fn refused(&mut self) -> BTreeMap<InstanceId, u64> {
        tokio::time::advance(measure::MEASURE_EVERY).await;
        self.pool.measure();
        loop {
            let _nothing = timeout(Duration::from_millis(1), self.pool.next()).await.is_err();
            if let Some(measured) = self.pool.take_measurement() {
                return measured.refused;
            }
        }
    }

    /// Until so many stops have begun.
    async fn begun(&mut self, stops: usize) {
        while self.backend.stops().len() < stops {
            let _nothing = timeout(Duration::from_millis(1), self.pool.next()).await.is_err();
        }
    }
}

#[test]
fn an_instance_is_named_after_its_function() {
    let named = |function: &str| new_id(function, [7; 32]).to_string();
    assert_eq!(named("hello"), "hello-7777777777");
    assert_eq!(named("a-rather-long-name"), "a-rather-7777777777");
    assert_eq!(secret().len(), 64);
}

#[test]
fn no_wish_goes_back_and_the_sooner_end_counts() {
    let now = Instant::now();
    let drain = |seconds| Wish::Drain { until: now + Duration::from_secs(seconds) };
    let stop = |seconds| Wish::Stop { grace: Duration::from_secs(seconds) };
    let order = [Wish::Run, drain(9), drain(3), stop(5), stop(0)];
    for (place, before) in order.iter().enumerate() {
        for (other, wish) in order.iter().enumerate() {
            assert_eq!(wish.goes_beyond(*before), other > place, "{wish:?} after {before:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_has_begun_is_shortened_by_one_with_less_grace_and_by_no_other() {
    let mut scene = Scene::new();
    let instance = scene.ready().await;
    scene.backend.heeds_no_signal();
    let (long, longer) = (Duration::from_secs(60), Duration::from_secs(90));
    let began = Instant::now();
    scene.pool.stop(&instance, "its calls have ended", long);
    scene.begun(1).await;
    scene.pool.stop(&instance, "somebody is patient", longer);
    scene.pool.stop(&instance, "the time is up", Duration::ZERO);
    scene.until(|happened| matches!(happened, Happened::Removed)).await;
    assert!(began.elapsed() < Duration::from_secs(1), "it took {:?}", began.elapsed());
    assert_eq!(scene.backend.stops(), [(instance.clone(), long), (instance, Duration::ZERO)]);
}

#[tokio::test(start_paused = true)]
async fn of_two_stops_before_the_first_has_begun_the_smaller_grace_counts() {
    let mut scene = Scene::new();
    let instance = scene.ready().await;
    scene.pool.stop(&instance, "its calls have ended", STOP_GRACE);
    scene.pool.stop(&instance, "the time is up", Duration::ZERO);
    scene.until(|happened| matches!(happened, Happened::Removed)).await;
    assert_eq!(scene.backend.stops(), [(instance, Duration::ZERO)]);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_does_not_end_in_its_grace_gets_none_the_second_time() {
    let mut scene = Scene::new();
    let instance = scene.ready().await;
    scene.backend.is_lost();
    scene.pool.stop(&instance, "it is idle", STOP_GRACE);
    scene.until(|happened| matches!(happened, Happened::Removed)).await;
    assert_eq!(scene.backend.stops(), [(instance.clone(), STOP_GRACE), (instance, Duration::ZERO)]);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_could_not_be_told_to_end_keeps_its_grace() {
    let mut scene = Scene::new();
    let instance = scene.ready().await;
    scene.backend.cannot_stop(3);
    scene.pool.stop(&instance, "it is idle", STOP_GRACE);
    scene.until(|happened| matches!(happened, Happened::Removed)).await;
    assert_eq!(scene.backend.stops(), vec![(instance, STOP_GRACE); 4]);
}

#[tokio::test(start_paused = true)]
async fn what_an_adopted_instance_was_refused_before_is_not_told_again() {
    let mut scene = Scene::new();
    let instance = scene.ready().await;
    scene.backend.refuse_processes(3);
    assert_eq!(scene.refused().await, [(instance.clone(), 3)].into());

    let Scene { backend, directory, .. } = scene;
    let mut scene = Scene::over(backend.restart(), directory);
    let found = scene.backend.list().await.unwrap().pop().unwrap();
    scene.pool.adopt(&hello(), found, 0);
    scene.until(|happened| matches!(happened, Happened::Ready { .. })).await;
    assert_eq!(scene.refused().await, BTreeMap::new());
    scene.backend.refuse_processes(10);
    assert_eq!(scene.refused().await, [(instance, 7)].into());
}

#[tokio::test(start_paused = true)]
async fn a_measurement_that_takes_long_is_the_only_one_and_has_an_end() {
    let mut scene = Scene::new();
    for _ in 0..3 {
        scene.ready().await;
    }
    scene.backend.hang_stats(true);
    let pass = |seconds: u64| Duration::from_millis(seconds * 1000 + 1);
    scene.pool.measure();
    let _nothing = timeout(pass(5), scene.pool.next()).await.is_err();
    scene.pool.measure();
    let _nothing = timeout(pass(0), scene.pool.next()).await.is_err();
    assert_eq!(scene.backend.stats_asked(), 3, "the first one is at its last instance");
    let _nothing = timeout(pass(2), scene.pool.next()).await.is_err();
    assert_eq!(scene.pool.take_measurement().map(|measured| measured.held), Some(BTreeMap::new()));
    scene.backend.hang_stats(false);
    scene.pool.measure();
    let _nothing = timeout(pass(1), scene.pool.next()).await.is_err();
    assert_eq!(scene.pool.take_measurement().map(|measured| measured.held.len()), Some(3));
}
