fn main(){ let cases=tenure_model::suite::cases();
 let o=tenure_model::suite::check(&cases,|c,o|{ println!("{:?} {} {} {} {:?} {}", c.path(), c.claim, o.exploration.states,o.exploration.depth,o.exploration.took,o.verdict()); if o.expected==tenure_model::suite::Expected::Broken || !o.is_as_expected() { if let Some(s)=&o.exploration.schedule {println!("{s}");}} });
 let _=o; for c in tenure_model::closing::counts() { println!("{c:?}"); } }
#[allow(dead_code)] fn x(){}
