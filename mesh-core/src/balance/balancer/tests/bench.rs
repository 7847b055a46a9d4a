//! What a choice costs. Run with
//! `cargo test --release -p mesh-core -- --ignored --nocapture cost_of_a_choice`.

use std::hint::black_box;
use std::io::Write;

use super::*;

#[test]
#[ignore = "measures, does not check"]
fn cost_of_a_choice() {
    let maglev = hashing(HashTable::Maglev(65_537));
    for (algorithm, weights) in
        all_algorithms().into_iter().chain([maglev]).flat_map(|it| [(it.clone(), 1), (it, 7)])
    {
        let weights: Vec<_> = (0..100).map(|at| 1 + at % weights).collect();
        let list = weighted(&weights);
        let settings = settings(algorithm.clone());
        let start = Instant::now();
        let candidates = Candidates::new(&settings, &list);
        let made = start.elapsed();
        let mut balancer = Balancer::new(settings);
        let (now, rounds) = (Instant::now(), 2_000_000_u64);
        let start = Instant::now();
        for seed in 0..rounds {
            let hash = Some(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let (load, health) = (&|_| 1, &AllWell);
            let ctx = PickContext { seed, hash, tried: &[], remote: false, now, load, health };
            black_box(balancer.pick(black_box(&candidates), black_box(&ctx)));
        }
        let nanos = start.elapsed().as_nanos() / u128::from(rounds);
        let even = if weights.iter().all(|weight| *weight == 1) { "equal" } else { "weighted" };
        let line = format!("{nanos} ns of 100 {even}, prepared in {made:?}: {algorithm:?}\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
}
