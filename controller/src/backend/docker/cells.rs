//! What is found out once and kept: one piece of work for a key, however many ask for it at the same time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio_util::task::TaskTracker;

use super::image::Error;

/// The work for one key, or what came of it.
type Cell<V> = Shared<BoxFuture<'static, Result<V, Arc<Error>>>>;

/// Answers by key. Work runs in a task of its own: whoever asked may go away, and work for one key is in nobody's way who asks for another.
/// An error goes to all that wait for it and is not kept; nor is what a panic cuts off.
#[derive(Debug)]
pub(super) struct Cells<K, V> {
    cells: Arc<Mutex<HashMap<K, Numbered<V>>>>,
    tasks: TaskTracker,
}

/// A cell, and its number among all that there were: work that ends takes away its own cell and no later one.
#[derive(Debug)]
struct Numbered<V> {
    number: u64,
    cell: Cell<V>,
}

impl<K, V> Cells<K, V>
where
    K: Eq + Hash + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub(super) fn new(tasks: TaskTracker) -> Self {
        Self { cells: Arc::default(), tasks }
    }

    /// Forgets what is known. Work that is under way goes on for those who wait for it.
    pub(super) fn forget(&self) {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// What is known of `key`, or what `work` finds out, which is begun unless some is under way.
    ///
    /// # Errors
    /// What the work says.
    pub(super) async fn get(
        &self,
        key: K,
        work: impl Future<Output = Result<V, Error>> + Send + 'static,
    ) -> Result<V, Arc<Error>> {
        let cell = {
            let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
            match cells.get(&key) {
                Some(found) => found.cell.clone(),
                None => {
                    let numbered = self.begin(&key, work);
                    let cell = numbered.cell.clone();
                    cells.insert(key, numbered);
                    cell
                }
            }
        };
        cell.await
    }

    fn begin(&self, key: &K, work: impl Future<Output = Result<V, Error>> + Send + 'static) -> Numbered<V> {
        // Unique as long as anybody could mix them up.
        static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let entry = Entry { cells: Arc::clone(&self.cells), key: key.clone(), number, keep: false };
        let task = self.tasks.spawn(async move {
            let mut entry = entry;
            let result = work.await;
            entry.keep = result.is_ok();
            drop(entry);
            result.map_err(Arc::new)
        });
        let cell = async move {
            task.await.unwrap_or_else(|error| {
                Err(Arc::new(if error.is_panic() { Error::Panicked } else { Error::CutOff }))
            })
        };
        Numbered { number, cell: cell.boxed().shared() }
    }
}

/// The place of a cell, which its work gives back, however it ends, unless it is to be kept.
struct Entry<K: Eq + Hash, V> {
    cells: Arc<Mutex<HashMap<K, Numbered<V>>>>,
    key: K,
    number: u64,
    keep: bool,
}

impl<K: Eq + Hash, V> Drop for Entry<K, V> {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        if cells.get(&self.key).is_some_and(|found| found.number == self.number) {
            cells.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Notify;

    use super::*;

    fn cells() -> Cells<&'static str, u32> {
        Cells::new(TaskTracker::new())
    }

    #[tokio::test]
    async fn who_asks_while_it_is_found_out_waits_for_the_same_and_others_do_not() {
        let (cells, begun, go) = (Arc::new(cells()), Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
        let slow = || {
            let (begun, go) = (Arc::clone(&begun), Arc::clone(&go));
            async move {
                begun.fetch_add(1, Ordering::Relaxed);
                go.notified().await;
                Ok(1)
            }
        };
        let asks: Vec<_> = (0..3).map(|_| Box::pin(cells.get("slow", slow()))).collect();
        let mut all = Box::pin(futures_util::future::join_all(asks));
        assert!(futures_util::poll!(&mut all).is_pending());
        assert_eq!(cells.get("other", async { Ok(2) }).await.unwrap(), 2);
        go.notify_one();
        assert!(all.await.into_iter().all(|answer| answer.unwrap() == 1));
        assert_eq!(cells.get("slow", slow()).await.unwrap(), 1, "it is known now");
        assert_eq!(begun.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn an_error_is_told_and_not_kept() {
        let cells = cells();
        let error = cells.get("one", async { Err(Error::Missing("no such image".to_owned())) }).await;
        assert_eq!(error.unwrap_err().to_string(), "no such image");
        assert_eq!(cells.get("one", async { Ok(1) }).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_panic_is_told_and_not_kept() {
        let cells = cells();
        let error = cells.get("one", async { panic!("on purpose") }).await.unwrap_err();
        assert!(matches!(*error, Error::Panicked), "{error:?}");
        assert_eq!(cells.get("one", async { Ok(1) }).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn work_goes_on_when_who_asked_has_gone_away() {
        let (cells, go) = (cells(), Arc::new(Notify::new()));
        let wait = Arc::clone(&go);
        let mut ask = Box::pin(cells.get("one", async move {
            wait.notified().await;
            Ok(1)
        }));
        assert!(futures_util::poll!(&mut ask).is_pending());
        drop(ask);
        go.notify_one();
        assert_eq!(cells.get("one", async { Ok(2) }).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn an_error_of_before_takes_away_nothing_that_was_found_out_since() {
        let (cells, go) = (cells(), Arc::new(Notify::new()));
        let wait = Arc::clone(&go);
        let mut old = Box::pin(cells.get("one", async move {
            wait.notified().await;
            Err(Error::Missing("gone".to_owned()))
        }));
        assert!(futures_util::poll!(&mut old).is_pending());
        cells.forget();
        assert_eq!(cells.get("one", async { Ok(1) }).await.unwrap(), 1);
        go.notify_one();
        old.await.unwrap_err();
        assert_eq!(cells.get("one", async { Ok(2) }).await.unwrap(), 1);
    }
}
