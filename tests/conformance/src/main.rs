//! thin
use tenure_conformance::*;
fn main() {
    let kernel = real::probe("host").unwrap();
    
    let mut r = real::Real::open().unwrap();
    let args: Vec<String> = std::env::args().collect();
    if args.len() > 4 { r.trace(); }
    let ops: u64 = args[1].parse().unwrap();
    if let Some(f) = args.get(3).filter(|x| *x != "-") {
        let s = op::parse_script(&std::fs::read_to_string(f).unwrap()).unwrap();
        let ops: Vec<_> = s.iter().map(|x| x.0).collect();
        if args[2] == "raw" {
            for o in &ops { println!("{o}\t# {:?}", r.apply(o).map(|x| x.to_string())); }
            return;
        }
        for l in random::replay(&mut r, &kernel, &ops) { println!("{}\t# {} | {}", l.op, l.got, l.expected); }
        return;
    }
    let s = random::run(&mut r, &kernel, args[2].parse().unwrap(), random::Limits { operations: ops, differences: 5 }, |s, w| eprintln!("{} {:.1} {w}", s.operations, s.seconds));
    for d in &s.differences { println!("--- seed {}", d.seed); for l in &d.lines { println!("{}\t# {} | {}", l.op, l.got, l.expected); } }
    println!("{} {} {:.1}", s.operations, s.sequences, s.seconds);
    for (k, a) in &s.answers { println!("{k}: {a:?}"); }
    println!("{:?}", s.microseconds);
}
