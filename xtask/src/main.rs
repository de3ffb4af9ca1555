//! The project's tasks: `cargo xtask setup | build-ebpf | load | demo | test | vm | avx512 | bench | conformance | fuzz`.
//!
//! One file per task. Each task does first whatever it needs of the earlier ones, so in a fresh clone
//! `cargo xtask demo` is enough. Nothing here is part of Ravelin itself.
#![forbid(unsafe_code)]

mod avx512;
mod bench;
mod build_ebpf;
mod conformance;
mod demo;
mod fuzz;
mod interrupt;
mod load;
mod program;
mod setup;
mod test;
mod toolchain;
mod vm;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use workspace::Workspace;

/// The project's tasks. Each does first what it needs of the others: in a fresh clone start with `demo`.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    version,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    Setup(setup::Args),
    BuildEbpf(build_ebpf::Args),
    Load(load::Args),
    Demo(demo::Args),
    Test(test::Args),
    Vm(vm::Args),
    Avx512(avx512::Args),
    Bench(bench::Args),
    Conformance(conformance::Args),
    Fuzz(fuzz::Args),
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    let workspace = Workspace::find()?;
    let good = match task {
        Task::Setup(args) => setup::run(&workspace, &args).map(|()| true)?,
        Task::BuildEbpf(args) => build_ebpf::run(&workspace, &args).map(|()| true)?,
        Task::Load(args) => match load::run(&workspace, &args)? {},
        Task::Demo(args) => demo::run(&workspace, &args)?,
        Task::Test(args) => test::run(&workspace, &args)?,
        Task::Vm(args) => vm::run(&workspace, &args)?,
        Task::Avx512(args) => avx512::run(&workspace, &args)?,
        Task::Bench(args) => bench::run(&workspace, &args).map(|()| true)?,
        Task::Conformance(args) => conformance::run(&workspace, &args)?,
        Task::Fuzz(args) => fuzz::run(&workspace, &args).map(|()| true)?,
    };
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
