//! What an Azure subscription lets be made in a location: vCPUs by family, and sizes of VMs. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A subscription, as far as node pools ask for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Subscription {
    /// `eastus`.
    pub location: String,
    /// By family as Azure names it (`standardDSv5Family`), and `cores` and `lowPriorityCores` for all together.
    pub quotas: BTreeMap<String, CoreQuota>,
    /// By the size's name (`Standard_D4s_v5`). Sizes that the subscription may not use there are none of them.
    pub sizes: BTreeMap<String, VmSize>,
}

/// vCPUs that there may be, and that there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CoreQuota {
    /// How many there may be.
    pub limit: u64,
    /// How many of them there are.
    pub used: u64,
}

/// A size of VMs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct VmSize {
    /// `standardDSv5Family`.
    pub family: String,
    /// Of one VM.
    pub vcpus: u64,
}

/// Two lists of Azure write the same family as `standardNCASv3_T4Family` and as `Standard NCASv3_T4 Family`.
fn bare(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

impl Subscription {
    /// The size of this name; Azure tells no case apart.
    pub(crate) fn size(&self, name: &str) -> Option<&VmSize> {
        self.sizes.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, size)| size)
    }

    /// The quota of a family.
    pub(crate) fn quota(&self, family: &str) -> Option<CoreQuota> {
        let wanted = bare(family);
        self.quotas.iter().find(|(known, _)| bare(known) == wanted).map(|(_, quota)| *quota)
    }
}
