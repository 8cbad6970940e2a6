//! The simulated steps: one of each kind of idempotency. They fail in every way that a step can,
//! make their effects outside, and tell the truth about them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use migrate_plugin_api::{
    Check, ErrorClass, Evidence, Idempotency, Observation, Step, StepContext, StepError, StepInfo, StepPlan,
    VerifyDepth,
};
use serde_json::{Value, json};

use super::outside::{items, value};
use super::scenario::step_name;
use super::world::World;
use crate::ambient;

/// What the panics of simulated steps say, so that nobody is alarmed.
pub(super) const PANIC: &str = "a simulated panic";

/// One kind of step.
pub(super) struct Simulated {
    pub kind: Idempotency,
    pub world: Arc<World>,
}

/// Where in an `apply` a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Error(ErrorClass),
    Panic,
    /// Returns when it is asked to stop.
    Hang,
    /// Does not.
    HangForEver,
}

impl Simulated {
    fn outputs(config: &Value) -> Value {
        let value = value(config);
        let list: Vec<String> = (0..value % 4).map(|item| format!("i{item}")).collect();
        json!({ "value": value, "even": value.is_multiple_of(2), "list": list })
    }

    async fn wait(&self, most_ms: u64) {
        let time = Duration::from_millis(1 + self.world.lock().dice.below(most_ms));
        ambient::sleep(time).await;
        self.world.moment().await;
    }

    fn fault(&self) -> Option<Fault> {
        if !self.world.chance(self.world.scenario.call_faults) {
            return None;
        }
        let dice = &mut self.world.lock().dice;
        let retry_after_ms = dice.chance(300).then(|| dice.below(20_000));
        Some(match dice.below(16) {
            0..5 => Fault::Error(ErrorClass::Transient { retry_after_ms }),
            5 | 6 => Fault::Error(ErrorClass::Throttled { retry_after_ms }),
            7 => Fault::Error(ErrorClass::Auth),
            8 => Fault::Error(ErrorClass::Conflict),
            9 => Fault::Error(ErrorClass::Permanent),
            10 => Fault::Error(ErrorClass::Corrupt),
            11 => Fault::Error(ErrorClass::Cancelled),
            12 => Fault::Panic,
            13 | 14 => Fault::Hang,
            _ => Fault::HangForEver,
        })
    }

    async fn strike(&self, ctx: &StepContext, place: &str) -> Result<(), StepError> {
        let Some(fault) = self.fault() else { return Ok(()) };
        self.world.say(format!("{} {place}: {fault:?}", ctx.node));
        match fault {
            Fault::Error(class) => Err(StepError::new(class, "a simulated error")),
            Fault::Panic => panic!("{PANIC}"),
            Fault::Hang => {
                ctx.cancel.cancelled().await;
                self.world.only_alive().await;
                Err(StepError::cancelled())
            }
            Fault::HangForEver => std::future::pending().await,
        }
    }

    /// Nearly every step looks whether it is to stop; none must.
    fn stop(&self, ctx: &StepContext) -> Result<(), StepError> {
        if self.world.chance(200) { Ok(()) } else { ctx.check_cancelled() }
    }

    async fn keyed(&self, ctx: &StepContext, config: &Value) -> Result<(), StepError> {
        let (node, key) = (ctx.node.as_str(), ctx.key.to_string());
        let lasts = Duration::from_millis(self.world.lock().dice.below(60_000));
        let now = self.world.clock.elapsed();
        let broken = {
            let mut state = self.world.lock();
            let generations = state.ledger.generations(node);
            let made = state.outside.node(node);
            if std::mem::take(&mut made.damaged) {
                // What somebody has broken is gone.
                made.jobs.clear();
            }
            made.jobs.entry(key.clone()).or_insert((config.clone(), now + lasts));
            let same = made.jobs.values().filter(|(of, _)| of == config).count();
            (same > 1 + generations)
                .then(|| format!("the effect of {node} is doubled: {:?}", made.jobs.keys()))
        };
        self.world.say(format!("{node} has its job {key}"));
        if let Some(what) = broken {
            self.world.broken(what);
        }
        self.world.moment().await;
        if ctx.handle().is_none() && items(config) > 1 {
            ctx.set_handle(key.clone()).await?;
            self.world.moment().await;
        }
        let end = self.world.lock().outside.node(node).jobs[&key].1;
        while self.world.clock.elapsed() < end {
            self.stop(ctx)?;
            let left = end - self.world.clock.elapsed();
            ambient::sleep(left.min(Duration::from_secs(5))).await;
            self.world.moment().await;
        }
        Ok(())
    }

    async fn natural(&self, ctx: &StepContext, config: &Value) -> Result<(), StepError> {
        let node = ctx.node.as_str();
        let cursor: Option<Value> = ctx.cursor()?;
        let mut done = cursor.as_ref().map_or(0, |cursor| cursor["done"].as_u64().unwrap_or(0));
        if cursor.is_some_and(|cursor| cursor["of"] != *config) {
            self.world.broken(format!("{node} is given the cursor of another config"));
            done = 0;
        }
        {
            let mut state = self.world.lock();
            let made = state.outside.node(node);
            // A cursor is believed: what it says is done is not looked at again.
            made.content = Some((config.clone(), done));
            made.damaged &= done > 0;
        }
        while done < items(config) {
            self.stop(ctx)?;
            self.wait(3_000).await;
            done += 1;
            self.world.lock().outside.node(node).content = Some((config.clone(), done));
            self.world.say(format!("{node} has {done} of {}", items(config)));
            self.world.moment().await;
            ctx.checkpoint(&json!({ "done": done, "of": config })).await?;
            self.world.moment().await;
        }
        Ok(())
    }

    async fn once(&self, ctx: &StepContext, config: &Value) {
        let node = ctx.node.as_str();
        let (count, most) = {
            let mut state = self.world.lock();
            // What a person has said, as far as it was stored.
            let generations = state.ledger.generations(node);
            let whole = ctx.node.whole();
            let of_all = if whole == ctx.node { 0 } else { state.outside.node(whole.as_str()).approved };
            let made = state.outside.node(node);
            made.damaged = false;
            made.effects.push(config.clone());
            (made.effects.len(), 1 + (made.approved + of_all).min(generations))
        };
        self.world.say(format!("{node} has had its effect {count} times"));
        if count > most {
            self.world.broken(format!("{node} is done {count} times, and a person has allowed {most}"));
        }
        self.world.moment().await;
    }

    async fn work(&self, ctx: &StepContext, config: &Value) -> Result<Value, StepError> {
        self.wait(5_000).await;
        self.stop(ctx)?;
        self.strike(ctx, "before its effect").await?;
        match self.kind {
            Idempotency::Keyed => self.keyed(ctx, config).await?,
            Idempotency::Natural => self.natural(ctx, config).await?,
            Idempotency::None => self.once(ctx, config).await,
        }
        ctx.info("made it");
        self.strike(ctx, "after its effect").await?;
        self.wait(1_000).await;
        Ok(Self::outputs(config))
    }

    fn seen(&self, ctx: &StepContext, config: &Value) -> Observation {
        let now = self.world.clock.elapsed();
        let mut state = self.world.lock();
        let whole = state.outside.holds(ctx.node.as_str(), self.kind, config, now);
        let made = state.outside.node(ctx.node.as_str());
        let job = made.jobs.get(ctx.key.as_str());
        match (self.kind, job) {
            _ if whole => Observation::Done { outputs: Self::outputs(config) },
            (Idempotency::Keyed, Some((_, end))) if *end > now => {
                Observation::Running { handle: ctx.key.to_string() }
            }
            (Idempotency::None, _) if made.effects.contains(config) => {
                Observation::Unknown { reason: "it was made, and is no longer as it was made".to_owned() }
            }
            _ => Observation::Absent,
        }
    }
}

#[async_trait]
impl Step for Simulated {
    fn describe(&self) -> StepInfo {
        StepInfo {
            name: step_name(self.kind).to_owned(),
            version: "1".to_owned(),
            summary: "Simulated".to_owned(),
            config_schema: json!({ "type": "object" }),
            output_schema: json!({
                "type": "object",
                "required": ["value", "even", "list"],
                "properties": {
                    "value": { "type": "integer" },
                    "even": { "type": "boolean" },
                    "list": { "type": "array", "items": { "type": "string" } }
                }
            }),
            sensitive: Vec::new(),
            idempotency: self.kind,
            supports_undo: self.kind != Idempotency::None,
        }
    }

    async fn plan(&self, _: &StepContext, _: &Value) -> Result<StepPlan, StepError> {
        self.world.only_alive().await;
        Ok(StepPlan::new("would be simulated"))
    }

    async fn observe(&self, ctx: &StepContext, config: &Value) -> Result<Observation, StepError> {
        self.world.only_alive().await;
        self.wait(2_000).await;
        self.strike(ctx, "while it is observed").await?;
        let observation = if self.world.chance(self.world.scenario.ignorance) {
            Observation::Unknown { reason: "simulated".to_owned() }
        } else {
            self.seen(ctx, config)
        };
        self.world.say(format!("{} is observed: {observation:?}", ctx.node));
        Ok(observation)
    }

    async fn apply(&self, ctx: &StepContext, config: &Value) -> Result<Value, StepError> {
        self.world.only_alive().await;
        self.world.say(format!("{} #{} is applied {}", ctx.node, ctx.attempt, ctx.key));
        self.world.applying(ctx, config);
        let _applying = Applying(&self.world, ctx.node.to_string());
        let result = self.work(ctx, config).await;
        self.world.say(format!("{} returns {:?}", ctx.node, result.as_ref().map_err(|error| error.class)));
        result
    }

    async fn verify(
        &self,
        ctx: &StepContext,
        config: &Value,
        outputs: &Value,
        depth: VerifyDepth,
    ) -> Result<Evidence, StepError> {
        self.world.only_alive().await;
        self.wait(1_000).await;
        self.strike(ctx, "while it is verified").await?;
        let now = self.world.clock.elapsed();
        let mut state = self.world.lock();
        let whole = state.outside.holds(ctx.node.as_str(), self.kind, config, now);
        let right = whole && *outputs == Self::outputs(config);
        state.verified.insert(ctx.node.to_string(), right);
        state.looked.insert(ctx.node.to_string(), depth);
        drop(state);
        self.world.say(format!("{} is verified: {right}", ctx.node));
        let found = if right { "as made" } else { "otherwise" };
        Ok(Evidence::from_iter([Check::equal(ctx.node.as_str(), "effect", "as made", found)]))
    }

    async fn undo(&self, ctx: &StepContext, _: &Value, _: &Value) -> Result<(), StepError> {
        self.world.only_alive().await;
        self.world.undoing(ctx);
        self.wait(2_000).await;
        self.strike(ctx, "before it is undone").await?;
        {
            let mut state = self.world.lock();
            let made = state.outside.node(ctx.node.as_str());
            made.content = made.content.take().filter(|_| self.kind != Idempotency::Natural);
            made.jobs.remove(ctx.key.as_str());
        }
        self.world.say(format!("{} takes back {}", ctx.node, ctx.key));
        self.world.moment().await;
        self.strike(ctx, "after it is undone").await
    }
}

/// A node in `apply`, however that ends.
struct Applying<'a>(&'a World, String);

impl Drop for Applying<'_> {
    fn drop(&mut self) {
        self.0.lock().applying.remove(&self.1);
    }
}
