//! Each plugin with each command: configs, and the environment.

use crate::{Bed, answered, corpus, how_much, plugins};
use cni_common::plugin::Plugin;
use cni_harness::fuzz::{Dice, fuzz, mutate, mutate_json};

const COMMANDS: [&str; 6] = ["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"];

fn configs(plugin: &dyn Plugin) {
    let bed = Bed::new();
    let right = bed.conf(plugin.name());
    if plugin.name() == "bandwidth" {
        bed.host.ip(&format!("link add vh0 type veth peer name eth0 netns {}", bed.pod.path()));
    }
    answered(plugin, &bed.env("ADD"), right.to_string().as_bytes()).unwrap();
    let mut known = corpus("config");
    for bytes in &known {
        for command in COMMANDS {
            let _ = answered(plugin, &bed.env(command), bytes);
        }
    }
    known.push(right.to_string().into_bytes());
    let make = |dice: &mut Dice| {
        let bytes = if dice.roll(3) == 0 {
            mutate(dice, &known)
        } else {
            mutate_json(dice, &right).to_string().into_bytes()
        };
        (*dice.pick(&COMMANDS), String::from_utf8_lossy(&bytes).into_owned())
    };
    fuzz(&format!("{}'s config", plugin.name()), how_much(), make, |(command, text)| {
        let _ = answered(plugin, &bed.env(command), text.as_bytes());
    });
}

#[test]
fn configs_of_bridge() {
    configs(&bridge::Bridge);
}

#[test]
fn configs_of_host_local() {
    configs(&host_local::HostLocal);
}

#[test]
fn configs_of_loopback() {
    configs(&loopback::Loopback);
}

#[test]
fn configs_of_portmap() {
    configs(&portmap::Portmap);
}

#[test]
fn configs_of_bandwidth() {
    configs(&bandwidth::Bandwidth);
}

#[test]
fn configs_of_kubenet_shim() {
    configs(&kubenet_shim::plugin::KubenetShim);
}

#[test]
fn environments() {
    let bed = Bed::new();
    let plugins = plugins();
    let make = |dice: &mut Dice| {
        let mut env = bed.env(dice.pick::<&str>(&COMMANDS));
        for _ in 0..=dice.roll(2) {
            // Not CNI_PATH: whoever sets that says what is executed.
            let at = *dice.pick(&[0, 1, 2, 3, 5]);
            let value = mutate(dice, &[env[at].1.clone()]);
            // A variable has no NUL.
            env[at].1 = value.into_iter().filter(|byte| *byte != 0).collect();
        }
        (dice.roll(6), env)
    };
    fuzz("environment", how_much(), make, |(plugin, env)| {
        let plugin = &plugins[*plugin];
        let _ = answered(&**plugin, env, bed.conf(plugin.name()).to_string().as_bytes());
    });
}
