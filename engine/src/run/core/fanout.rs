//! Nodes with `for_each`: a cell of its own for every item.
//!
//! The list is a fact before any item begins. Cells of items are made as room comes up, so a long
//! list costs little until its items are at work; only as many as may run at once are ever ready. A
//! node with items is ended when all of them are done; one that failed keeps it open, and so
//! everything that waits for it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use migrate_plugin_api::NodeId;

use super::{Cell, Core, Live, MAX_RUNNING};
use crate::event::EventKind;
use crate::store::fact::Fact;
use crate::workflow::each::difference;
use crate::workflow::{Each, Expansion, Item};

/// Said where a list that should have stayed skipped is gone through all the same.
const UNTOLD: &str = "it is no longer skipped, and what it does has changed in the files since it ran; \
                      `migrate resume` tells what, and goes on with `--accept-changes`";

/// All that is at work of nodes with `for_each`.
#[derive(Default)]
pub(super) struct Fanout {
    /// By the cell of the node.
    lists: BTreeMap<usize, List>,
    /// Where the cells of items are.
    cells: HashMap<NodeId, usize>,
}

struct List {
    items: Arc<[Item]>,
    /// The next item without a cell.
    next: usize,
    /// Items with a cell that have not ended.
    active: usize,
    /// Items that are not done.
    left: usize,
    limit: usize,
}

/// Which item a cell is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seat {
    /// The cell of its node.
    node: usize,
    item: usize,
    active: bool,
}

impl Core {
    /// The cell of a node or an item.
    pub(super) fn cell_of(&self, id: &NodeId) -> Option<usize> {
        self.checked.workflow.index.get(id).or_else(|| self.fanout.cells.get(id)).copied()
    }

    /// Whether the cell stands for all items of a node.
    pub(super) fn is_list(&self, at: usize) -> bool {
        self.cells[at].seat.is_none() && self.node(at).for_each.is_some()
    }

    /// Whether the cell stands for a list that is known.
    pub(super) fn is_known_list(&self, at: usize) -> bool {
        self.fanout.lists.contains_key(&at)
    }

    /// The cell of the node that the cell belongs to: its own, or that of the whole.
    pub(super) fn node_at(&self, at: usize) -> usize {
        self.cells[at].seat.map_or(at, |seat| seat.node)
    }

    /// The item that a cell is for.
    pub(super) fn each(&self, at: usize) -> Option<(Arc<[Item]>, usize)> {
        let seat = self.cells[at].seat?;
        Some((Arc::clone(&self.fanout.lists.get(&seat.node)?.items), seat.item))
    }

    /// Goes through the list of a node.
    pub(super) fn expand(&mut self, at: usize) {
        let checked = Arc::clone(&self.checked);
        match checked.expand(&checked.workflow.nodes[at], &self.facts) {
            Expansion::Skip(reason) => self.skip(at, reason),
            Expansion::Items(_) if self.record_of(at).untold => self.refuse(at, UNTOLD.to_owned()),
            Expansion::Items(items) => self.spread(at, items),
            Expansion::Refuse(why) => self.refuse(at, why),
            Expansion::Unknown => {
                self.refuse(at, "a node that the list comes from has no outputs".to_owned());
            }
        }
    }

    fn spread(&mut self, at: usize, items: Vec<Item>) {
        let node = self.id(at);
        let known = self.facts.lists.get(&node).cloned();
        let (removed, added) = known.as_ref().map(|known| difference(known, &items)).unwrap_or_default();
        let wording = Some(self.checked.list_wording(self.node(at)));
        let is_new = known.is_none_or(|known| *known != items[..])
            || self.facts.own(&node).is_some()
            || self.facts.list_wordings.get(&node) != wording.as_ref();
        let count = items.len();
        if is_new {
            self.record(Fact::Expanded { node: node.clone(), items, wording });
        }
        self.emit(EventKind::NodeExpanded { node: node.clone(), items: count, added, removed });
        let Some(items) = self.facts.lists.get(&node).cloned() else { return };
        let limit = self.node(at).for_each.as_ref().and_then(|each| each.max_parallel);
        let limit = limit.unwrap_or(MAX_RUNNING);
        self.fanout.lists.insert(at, List { items, next: 0, active: 0, left: count, limit });
        if count == 0 {
            self.all_done(at);
        } else {
            self.seat(at);
        }
    }

    /// Makes cells ready for as many items as may be at work.
    fn seat(&mut self, node: usize) {
        while let Some(list) = self.fanout.lists.get_mut(&node) {
            if list.active >= list.limit || list.next >= list.items.len() {
                return;
            }
            let item = list.next;
            list.next += 1;
            let key = &list.items[item].key;
            // Keys are made so that this never fails; an item without a name could not be remembered.
            let Ok(id) = self.checked.workflow.nodes[node].id.item(key) else { continue };
            list.active += 1;
            let at = self.cells.len();
            self.cells
                .push(Cell { seat: Some(Seat { node, item, active: true }), ..Cell::new(id.clone(), 0) });
            self.dependents.push(Vec::new());
            self.fanout.cells.insert(id, at);
            self.make_ready(at);
        }
    }

    /// The item has ended, in whatever way: another may begin.
    pub(super) fn unseat(&mut self, at: usize) {
        let cell = &mut self.cells[at];
        let Some(seat) = cell.seat.as_mut().filter(|seat| seat.active) else { return };
        seat.active = false;
        let node = seat.node;
        cell.resolved = None;
        if let Some(list) = self.fanout.lists.get_mut(&node) {
            list.active -= 1;
        }
        if !self.stopping && !self.draining {
            self.seat(node);
        }
    }

    /// The item is done.
    pub(super) fn item_done(&mut self, at: usize) {
        let Some(seat) = self.cells[at].seat else { return };
        let Some(list) = self.fanout.lists.get_mut(&seat.node) else { return };
        list.left -= 1;
        if list.left == 0 {
            self.all_done(seat.node);
        }
    }

    fn all_done(&mut self, node: usize) {
        let items = self.fanout.lists.get(&node).map_or(0, |list| list.items.len());
        self.emit(EventKind::NodeItemsDone { node: self.id(node), items });
        debug_assert_ne!(self.cells[node].live, Live::Ended, "a list ends once");
        self.done(node);
    }

    /// What `each` stands for in an item's cell.
    pub(super) fn each_of<'a>(item: &'a Option<(Arc<[Item]>, usize)>) -> Option<Each<'a>> {
        let (items, at) = item.as_ref()?;
        Each::new(items, *at)
    }
}
