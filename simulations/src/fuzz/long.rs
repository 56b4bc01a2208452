//! `fuzz`: each target over random inputs for a while, without coverage to guide them, and the same again for a seed.

use std::time::{Duration, Instant};

use clap::Args;

use crate::sim::rng::Rng;

/// Inputs of one target before the next one has its turn.
const ROUND: usize = 64;
/// Every so many inputs are long.
const LONG_EVERY: usize = 16;
/// Bytes of inputs, of long ones, and of those of a node, whose every byte is a choice.
const BYTES: usize = 300;
const LONG_BYTES: usize = 100_000;
const NODE_BYTES: usize = 2_000;

/// A name, and what stands any bytes.
type Target = (&'static str, fn(&[u8]));

/// How long, and where to begin.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// For so long
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// From which all inputs follow
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Random bytes, and random changes of bytes that got further than most.
pub(super) fn inputs(seed: u64, count: usize, longest: usize, begin: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let mut rng = Rng::new(seed);
    let begin = begin.to_vec();
    (0..count).map(move |_| {
        let length = rng.below(longest);
        let mut bytes: Vec<u8> = (0..length).map(|_| rng.next_u64() as u8).collect();
        // Small numbers are lengths and kinds, which random bytes rarely are.
        bytes.iter_mut().filter(|byte| byte.is_multiple_of(3)).for_each(|byte| *byte %= 8);
        [&begin[..begin.len().min(length)], &bytes].concat()
    })
}

/// Runs every target in turn until the time is over; a broken promise is a panic, after the seed of its round.
///
/// # Errors
/// None; the signature is that of the other commands.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let targets: [Target; 6] = [
        ("node", super::node),
        ("gossip", super::gossip),
        ("direct", super::direct),
        ("manifest", super::manifest),
        ("certificate", super::certificate),
        ("token", super::token),
    ];
    let version = [paceline_proto::wire::WIRE_VERSION];
    let end = Instant::now() + Duration::from_secs_f64((options.minutes * 60.0).clamp(0.0, 86_400.0));
    let mut seeds = Rng::new(options.seed);
    let mut counts = [0_u64; 6];
    while Instant::now() < end {
        for ((name, target), count) in targets.iter().zip(&mut counts) {
            let seed = seeds.next_u64();
            // What a panic would not tell.
            let told = Told { name, seed };
            let (longest, begin) = match *name {
                "node" => (NODE_BYTES, &[][..]),
                _ => (BYTES, &version[..]),
            };
            inputs(seed, ROUND, longest, begin).for_each(|bytes| target(&bytes));
            if *name != "node" {
                inputs(seed, ROUND / LONG_EVERY, LONG_BYTES, begin).for_each(|bytes| target(&bytes));
                *count += (ROUND / LONG_EVERY) as u64;
            }
            *count += ROUND as u64;
            drop(told);
        }
    }
    for ((name, _), count) in targets.iter().zip(counts) {
        println!("{name}: {count} inputs");
    }
    Ok(())
}

/// Says where it was, if its round ends by a panic.
struct Told {
    name: &'static str,
    seed: u64,
}

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("target {}, inputs of seed {}", self.name, self.seed);
        }
    }
}
