//! Ingresses that are not among the objects and share a load balancer with some that are: what they say of it counts
//! for all of them. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::ingress::Ingress;
use super::ingress_groups::annotation;
use super::ingress_guards::Hosts;
use crate::rules::engine::{Look, Match};
use crate::rules::facts::Name;
use crate::rules::path::key;

/// What is known of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Others {
    /// People wrote the objects down: nothing tells whether there are any.
    #[default]
    Written,
    /// The objects were read from a cluster, and so were these: all that name one of the groups. Nothing is known of
    /// another group.
    Read { groups: BTreeSet<String>, all: BTreeSet<Other> },
    /// The objects were read from a cluster, without these.
    Unread,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Other {
    pub namespace: String,
    pub name: String,
    /// What it, or its class, says of the load balancer, and of who may come to its hosts, under the names of annotations.
    pub settings: BTreeMap<String, String>,
    /// Actions that close paths of its hosts. A line of an earlier version says nothing of them, and is not read.
    pub closing: BTreeSet<String>,
    pub hosts: Hosts,
}

impl Other {
    pub(super) fn full_name(&self) -> Name {
        (self.namespace.clone(), self.name.clone())
    }
}

/// What is written of them, a line each.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum Line {
    Group(String),
    Ingress(Other),
}

impl Others {
    /// Whether all of the group are known, or people wrote the objects down.
    pub(super) fn knows(&self, group: &str) -> bool {
        match self {
            Self::Written => true,
            Self::Read { groups, .. } => groups.contains(group),
            Self::Unread => false,
        }
    }

    /// Each, and each group, in a line; `None` where they are not known.
    pub(crate) fn to_lines(&self) -> Option<BTreeSet<String>> {
        let Self::Read { groups, all } = self else { return None };
        let groups = groups.iter().cloned().map(Line::Group);
        let lines = groups.chain(all.iter().cloned().map(Line::Ingress));
        lines.map(|line| serde_json::to_string(&line).ok()).collect()
    }

    /// What [`to_lines`](Self::to_lines) made. They are not known where a line can't be read.
    pub(crate) fn of_lines(lines: &BTreeSet<String>) -> Self {
        let (mut groups, mut all) = (BTreeSet::new(), BTreeSet::new());
        for line in lines {
            match serde_json::from_str(line) {
                Ok(Line::Group(group)) => _ = groups.insert(group),
                Ok(Line::Ingress(other)) => _ = all.insert(other),
                Err(_) => return Self::Unread,
            }
        }
        Self::Read { groups, all }
    }
}

/// An Ingress of files that would be converted, and may share its load balancer with one that is not among them.
pub(super) fn unknown(look: &Look<'_>) -> Vec<Match> {
    let Some(ingress) = Ingress::of(look.object, look.facts) else { return Vec::new() };
    let Some(group) = ingress.setting("group.name") else { return Vec::new() };
    let is_told = look.facts.ingresses.others == Others::Written
        && ingress.kept(look.facts, look.inputs.ingress).is_none();
    let own = vec![key("metadata"), key("annotations"), key(annotation("group.name"))];
    let path = if look.object.node.follow(&own).is_some() { own } else { ingress.class_path() };
    is_told.then(|| Match::at(path).found(group)).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::network_tests::{ALB, PUBLIC, ingress, inputs, rules};

    #[test]
    fn what_files_do_not_tell_is_left_to_check_where_an_ingress_would_go() {
        let group = ("alb.ingress.kubernetes.io/group.name", "g");
        let is_told = |settings: &[(&str, &str)]| {
            let rules = rules(&ingress("web", settings, ALB), &inputs("gateway"));
            rules.contains(&"EKS-NET-054".to_owned())
        };
        assert!(is_told(&[PUBLIC, group]));
        assert!(!is_told(&[PUBLIC]));
        assert!(!is_told(&[group]));
        assert!(!is_told(&[PUBLIC, group, ("alb.ingress.kubernetes.io/wafv2-acl-arn", "arn")]));
    }

    #[test]
    fn a_line_that_can_not_be_read_is_not_taken_for_nobody() {
        let settings = BTreeMap::from([("wafv2-acl-arn".to_owned(), "a\nb".to_owned())]);
        let (closing, hosts) = (BTreeSet::new(), Hosts::default());
        let other =
            Other { namespace: "platform".to_owned(), name: "base".to_owned(), settings, closing, hosts };
        let read = Others::Read { groups: BTreeSet::from(["g".to_owned()]), all: BTreeSet::from([other]) };
        assert!(read.knows("g") && !read.knows("edge"));
        let mut lines = read.to_lines().unwrap();
        assert!(lines.iter().all(|line| !line.contains('\n')));
        assert_eq!(Others::of_lines(&lines), read);
        // One of an earlier version doesn't say what actions close.
        let earlier = lines.iter().map(|line| line.replace("\"closing\":[],", "")).collect();
        assert_ne!(earlier, lines);
        assert_eq!(Others::of_lines(&earlier), Others::Unread);
        lines.insert("{}".to_owned());
        assert_eq!(Others::of_lines(&lines), Others::Unread);
    }
}
