//! Soaks over the simulated network: long-lived flows through everything that a night brings.

mod sim_common;

use std::collections::BTreeMap;
use std::time::Duration;

use probe_analysis::observation::{Fate, FlowNo, FlowPlanned, Observation};
use probe_client::plan::{Plan, SoakOptions};
use sim_common::{assert_true, count, probes, run, secs, topology};
use tests::sim::{Fault, Setup, setup};

fn soak(seed: u64, length: Duration, options: SoakOptions) -> Setup {
    let topology = topology();
    let plan = Plan::soak(&[setup::target(&topology)], &SoakOptions { length: Some(length), ..options });
    Setup::of(seed, topology, plan)
}

fn planned(observations: &[Observation]) -> BTreeMap<FlowNo, FlowPlanned> {
    let of =
        |o: &Observation| if let Observation::FlowPlanned(p) = o { Some((p.flow, p.clone())) } else { None };
    observations.iter().filter_map(of).collect()
}

#[test]
fn a_clean_soak_opens_everything_and_loses_nothing() {
    let (observations, ran) = run(soak(1, secs(600), SoakOptions::default()));
    assert_true(&observations, &ran);
    assert_eq!(count(&observations, |f| matches!(f, Fate::LostUp | Fate::LostDown | Fate::LostUnknown)), 0);
    let planned = planned(&observations);
    let silences = observations.iter().filter(|o| matches!(o, Observation::Silence(_))).count();
    assert_eq!(silences, 0);
    assert!(planned.values().all(|p| p.replaces.is_none()));
    for o in &observations {
        if let Observation::IdleGap(gap) = o {
            println!("{gap:?} {}", planned[&gap.flow].name);
        }
    }
    println!("{} probes", probes(&observations).len());
}

#[test]
fn a_restarted_listener_is_survived_by_every_class() {
    let restart = Fault::RestartListener { at: secs(100), gap: secs(5) };
    let (observations, ran) =
        run(Setup { faults: vec![restart], ..soak(2, secs(300), SoakOptions::default()) });
    assert_true(&observations, &ran);
}
