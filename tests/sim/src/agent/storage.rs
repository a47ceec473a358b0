//! The ledger's storage on a [`Disk`].

use crate::disk::Disk;
use redb::StorageBackend;
use std::io;

/// A disk as the ledger's store sees it.
#[derive(Clone, Debug)]
pub struct DiskStorage(pub Disk);

impl StorageBackend for DiskStorage {
    fn len(&self) -> Result<u64, io::Error> {
        self.0.length()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.0.read_at(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.0.resize(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.0.write_at(offset, data)
    }
}
