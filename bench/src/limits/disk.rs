//! What the disk does by itself.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;

use crate::measure::{again_and_again, latency_report, per_second};

const BLOCK: [u8; 4096] = [0x5A; 4096];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where to make the files.
    #[arg(long)]
    dir: PathBuf,
    /// How long to write.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
}

/// How many blocks a second reach the disk, and how long each takes.
pub(super) fn run(args: &Args) -> anyhow::Result<Value> {
    let directory = tempfile::Builder::new()
        .prefix("limit")
        .tempdir_in(&args.dir)?;
    let time = Duration::from_secs_f64(args.seconds);
    let mut file = File::create(directory.path().join("blocks"))?;
    append_block(&mut file).context("warm up")?;
    let started = Instant::now();
    let latencies = again_and_again(time, || append_block(&mut file))?;
    let elapsed = started.elapsed();
    let rate = per_second(latencies.len(), elapsed);
    let mut report = latency_report(latencies);
    report["syncs_per_second"] = rate.into();
    Ok(report)
}

/// Ends once the block is on the disk, and the file's length with it.
fn append_block(file: &mut File) -> anyhow::Result<()> {
    file.write_all(&BLOCK)?;
    file.sync_data()?;
    Ok(())
}
