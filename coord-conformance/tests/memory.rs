//! The suite on the store in memory, under a paused clock.

use std::{process::ExitCode, sync::Arc};

use async_trait::async_trait;
use coord_conformance::{Backend, Stores, TestStore};
use coord_core::{Result, clock::Clock, memory, spi::Claims};

#[derive(Debug)]
struct Memory;

#[async_trait]
impl Backend for Memory {
    fn name(&self) -> &str {
        "memory"
    }

    fn virtual_time(&self) -> bool {
        true
    }

    async fn open(&self) -> Result<Box<dyn TestStore>> {
        Ok(Box::new(Fresh(memory::Store::new())))
    }
}

#[derive(Debug)]
struct Fresh(memory::Store);

#[async_trait]
impl TestStore for Fresh {
    async fn connect(&self) -> Result<Arc<dyn Claims>> {
        Ok(Arc::new(self.0.connect()))
    }

    async fn connect_all(&self) -> Result<Stores> {
        let client = Arc::new(self.0.connect());
        Ok(Stores::new(client.clone()).with_values(client.clone()).with_jobs(client))
    }

    fn clock(&self) -> Clock {
        Clock::Tokio
    }

    fn remembered_changes(&self) -> Option<u64> {
        Some(1000)
    }

    async fn size(&self) -> Result<Option<u64>> {
        let (claims, names) = self.0.size();
        Ok(Some((claims + names) as u64))
    }
}

fn main() -> ExitCode {
    coord_conformance::main(Memory)
}
