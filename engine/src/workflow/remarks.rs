//! What is no mistake and still worth a look before a run: parameters that it will need, and what
//! stands in `migration.toml` for nobody.

use super::diagnostic::{Mistakes, Source, nearest};
use super::editor::own_tables;
use super::params::Params;
use super::template::Root;
use super::tree::Tree;
use super::{Catalog, Library, Parts, examine};

/// Remarks about `workflow` with what there is of its surroundings, a line each. What one of `others`
/// refers to is known too.
pub(crate) fn remarks(
    (catalog, library): (&Catalog, &Library),
    workflow: &Source,
    environment: Option<&Source>,
    params: &Params,
    others: &[Source],
) -> Vec<String> {
    let look = |workflow: &Source, environment: Option<&Source>, params: &Params| -> Option<Parts> {
        examine((catalog, library), workflow, environment, params, true, &mut Mistakes::default())
    };
    let Some(parts) = look(workflow, environment, params) else { return Vec::new() };
    let mut found: Vec<String> = parts
        .0
        .params
        .iter()
        .filter(|param| param.required && parts.2.get(&param.name).is_none_or(Option::is_none))
        .map(|param| format!("`{0}` isn't given; a run needs it: --param {0}=…", param.name))
        .collect();
    let Some(environment) = &parts.1 else { return found };
    let own = own_tables().into_iter().map(|(name, _)| vec![name.to_owned()]);
    let mut known: Vec<Vec<String>> = own.collect();
    known.extend(places(&parts));
    for other in others {
        known.extend(look(other, None, &Params::new()).iter().flat_map(places));
    }
    strangers(&environment.tree, &mut Vec::new(), &known, &mut found);
    found
}

/// Where in the environment a workflow refers to.
fn places(parts: &Parts) -> Vec<Vec<String>> {
    let references = parts.0.nodes.iter().flat_map(|node| node.references());
    references
        .filter(|reference| reference.root == Root::Env)
        .map(|reference| reference.path.clone())
        .collect()
}

fn strangers(tree: &Tree, path: &mut Vec<String>, known: &[Vec<String>], found: &mut Vec<String>) {
    for entry in tree.entries().unwrap_or_default() {
        path.push(entry.key.clone());
        let is_used = known.iter().any(|place| path.starts_with(place));
        let is_on_the_way = known.iter().any(|place| place.starts_with(path));
        match (is_used, is_on_the_way) {
            (true, _) => {}
            (false, true) => strangers(&entry.value, path, known, found),
            (false, false) => {
                let depth = path.len() - 1;
                let beside =
                    known.iter().filter(|place| place.len() > depth && place.starts_with(&path[..depth]));
                let beside: Vec<&str> = beside.map(|place| place[depth].as_str()).collect();
                let near = nearest(&entry.key, &beside);
                let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                found.push(format!("no node refers to `{}` of migration.toml{near}", path.join(".")));
            }
        }
        path.pop();
    }
}
