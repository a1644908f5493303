//! `duck-bench`: what the benchmark needs in Rust. Each command prints one JSON object on stdout.
//!
//! - `limit`: what DuckDB does in this process, with no network: appending, upserting, a streaming read, small queries;
//!   and what the disk does;
//! - `read`: one result through the wire, decoded and dropped, by a client that may be slow;
//! - `small`: small queries on warm connections, by plain Flight or by Flight SQL;
//! - `load`: loaders whose rows `duck-load` does not make: wide, long texts, nested, by primary key;
//! - `idle`: connections that stand and do nothing;
//! - `quack`: clients of DuckDB's own remote protocol;
//! - `floor`: a Flight server with nothing behind its transport. It prints its address, and serves until it is
//!   interrupted.

mod connections;
mod floor;
mod limits;
mod load;
mod measure;
mod quack;
mod reads;

use clap::Parser;

/// The server's, so that what is measured beside it does not differ by the allocator.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
enum Command {
    /// DuckDB in this process, and the disk.
    #[command(subcommand)]
    Limit(limits::Limit),
    /// One result through the wire.
    Read(reads::ReadArgs),
    /// Small queries, one after another on each connection.
    Small(reads::SmallArgs),
    /// Loaders, each batch a put of its own.
    Load(load::Args),
    /// Connections that do nothing until standard input ends.
    Idle(connections::IdleArgs),
    /// Clients of a server of DuckDB's Quack protocol.
    #[command(subcommand)]
    Quack(quack::Command),
    /// A server that does nothing.
    Floor(floor::Args),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let report = match Command::parse() {
        Command::Limit(limit) => limits::run(&limit)?,
        Command::Read(args) => reads::read(args).await?,
        Command::Small(args) => reads::small(args).await?,
        Command::Load(args) => load::run(args).await?,
        Command::Idle(args) => connections::idle(args).await?,
        Command::Quack(command) => quack::run(&command)?,
        Command::Floor(args) => return floor::serve(&args).await,
    };
    println!("{report}");
    Ok(())
}
