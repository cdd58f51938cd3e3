//! A disk that can be full.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::backends::FileBackend;
use redb::{DatabaseError, StorageBackend};

use super::*;

/// A file of which nothing can be written while the disk is full.
#[derive(Debug)]
pub(in crate::store) struct Disk {
    file: FileBackend,
    full: Arc<AtomicBool>,
}

impl Disk {
    pub(in crate::store) fn new(file: File, full: Arc<AtomicBool>) -> Result<Self, DatabaseError> {
        Ok(Self { file: FileBackend::new(file)?, full })
    }

    fn room(&self) -> io::Result<()> {
        if self.full.load(Ordering::Relaxed) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.room()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.room()?;
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_until_there_is_room_again() {
    let directory = tempfile::tempdir().unwrap();
    let full = Arc::<AtomicBool>::default();
    let config =
        Config { full: Some(Arc::clone(&full)), ..Config::new(directory.path().join("hearth.redb")) };
    let store = Store::open(config).await.unwrap();
    let first = store.create(function("first"), now()).await.unwrap();
    full.store(true, Ordering::Relaxed);
    for name in ["second", "third"] {
        let refused = store.create(function(name), now()).await;
        let Err(error @ Error::Io { .. }) = refused else { panic!("{refused:?}") };
        let text = crate::telemetry::chain(&error);
        assert!(text.contains("no storage space"), "{text}");
    }
    assert_eq!(store.list::<Function>(None).items, [Arc::clone(&first)], "what was there is still read");
    full.store(false, Ordering::Relaxed);
    let second = store.create(function("second"), now()).await.unwrap();
    assert_eq!(store.list::<Function>(None).items, [first, second]);
}
