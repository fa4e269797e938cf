//! Promise: many at once are served, all of them.

use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use attest_kbs::client::Session;

use crate::bed::{Bed, RESOURCE, SECRET};

const GUESTS: usize = 200;

/// With the limits that are the default.
#[test]
fn two_hundred_at_once_and_none_fails() {
    let bed = Bed::new();
    let start = Barrier::new(GUESTS);
    let began = Instant::now();
    let failed: Vec<_> = thread::scope(|scope| {
        let guests: Vec<_> = (0..GUESTS)
            .map(|_| {
                scope.spawn(|| {
                    let http = bed.http();
                    start.wait();
                    let mut session = Session::attest(http, &mut bed.guest.clone())?;
                    session.resource(&RESOURCE.parse().unwrap()).map(|secret| assert_eq!(secret[..], *SECRET))
                })
            })
            .collect();
        guests.into_iter().filter_map(|guest| guest.join().unwrap().err()).collect()
    });
    assert!(failed.is_empty(), "{} of {GUESTS} failed, {:?}", failed.len(), failed.first());
    println!("{GUESTS} flows took {:?}", began.elapsed());
}
