//! An API server in memory: objects, watches, server-side apply, a record of each
//! call, and faults.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use futures_util::StreamExt as _;
use http::{Request, Response};
use kube::Client;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::call::Call;
use crate::faults::{Fault, status};
use crate::fields::{drop_gone, merge, merge_patch, set_of};

/// Resource, namespace and name.
type Id = (String, String, String);

type Chaos = Box<dyn FnMut(&Call) -> Option<Fault> + Send>;

#[derive(Clone, Default)]
pub struct ApiServer(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    objects: BTreeMap<Id, Value>,
    version: u64,
    calls: Vec<Call>,
    faults: Vec<(String, Fault)>,
    chaos: Option<Chaos>,
    history: Vec<(u64, Change)>,
    watches: Vec<Watch>,
}

#[derive(Clone)]
struct Change {
    kind: &'static str,
    resource: String,
    object: Value,
}

struct Watch {
    call: Call,
    events: mpsc::UnboundedSender<String>,
}

impl ApiServer {
    pub fn client(&self) -> Client {
        self.client_of("")
    }

    /// The client of one of several callers, who is named in its calls.
    pub fn client_of(&self, caller: &str) -> Client {
        let server = self.clone();
        let caller = caller.to_owned();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let (server, caller) = (server.clone(), caller.clone());
            async move { Ok::<_, Infallible>(server.serve(caller, request).await) }
        });
        Client::new(service, "default")
    }

    /// The calls since the last time, lists and watches aside.
    pub fn calls(&self) -> Vec<Call> {
        let calls = std::mem::take(&mut self.0.lock().calls);
        let writes_and_gets = |call: &Call| call.verb != "list" && call.verb != "watch";
        calls.into_iter().filter(writes_and_gets).collect()
    }

    /// As [`calls`](Self::calls), as text.
    pub fn spoken(&self) -> Vec<String> {
        self.calls().iter().map(ToString::to_string).collect()
    }

    /// Lists and watches since the last time; forgets the other calls too.
    pub fn reads(&self) -> Vec<Call> {
        let calls = std::mem::take(&mut self.0.lock().calls);
        calls
            .into_iter()
            .filter(|call| call.verb == "list" || call.verb == "watch")
            .collect()
    }

    /// Looks at the calls without forgetting them.
    pub fn count(&self, what: &str) -> usize {
        let state = self.0.lock();
        state
            .calls
            .iter()
            .filter(|call| call.to_string().starts_with(what))
            .count()
    }

    /// The next such call (`patch deployments`) goes wrong. Several add up.
    pub fn fail(&self, what: &str, fault: Fault) {
        self.0.lock().faults.push((what.to_owned(), fault));
    }

    /// Decides about each call.
    pub fn disturb(&self, chaos: impl FnMut(&Call) -> Option<Fault> + Send + 'static) {
        self.0.lock().chaos = Some(Box::new(chaos));
    }

    pub fn get(&self, resource: &str, name: &str) -> Option<Value> {
        let state = self.0.lock();
        let mut found = state.objects.iter();
        found
            .find(|((of, _, named), _)| of == resource && named == name)
            .map(|(_, object)| object.clone())
    }

    /// All objects of a resource.
    pub fn all(&self, resource: &str) -> Vec<Value> {
        let state = self.0.lock();
        let objects = state.objects.iter();
        objects
            .filter(|((of, _, _), _)| of == resource)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// Somebody creates or replaces an object.
    pub fn put(&self, resource: &str, object: Value) -> Value {
        let text = |field: &str| {
            object["metadata"][field]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        let id = (resource.to_owned(), text("namespace"), text("name"));
        self.0.lock().store(&id, object)
    }

    /// Somebody changes an object.
    pub fn edit(&self, resource: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let mut object = self.get(resource, name).expect("the object is there");
        change(&mut object);
        self.put(resource, object);
    }

    /// Somebody takes over a field that was ours: `kubectl edit`, say.
    pub fn take_over(&self, resource: &str, name: &str, path: &[&str], value: Value) {
        self.edit(resource, name, |object| {
            let pointer = format!("/{}", path.join("/"));
            *object.pointer_mut(&pointer).expect("the field is there") = value;
            let (field, parents) = path.split_last().expect("a path");
            let mut set = &mut object["metadata"]["managedFields"][0]["fieldsV1"];
            for parent in parents {
                set = &mut set[format!("f:{parent}")];
            }
            set.as_object_mut()
                .expect("fields")
                .remove(&format!("f:{field}"));
        });
    }

    pub fn delete(&self, resource: &str, name: &str) {
        let mut state = self.0.lock();
        let found = state
            .objects
            .keys()
            .find(|(of, _, named)| of == resource && named == name);
        if let Some(id) = found.cloned() {
            state.remove(&id);
        }
    }

    async fn serve(&self, caller: String, request: Request<kube::client::Body>) -> Response<Body> {
        let call = Call::read(caller, request).await;
        let fault = self.0.lock().note(&call);
        if let Some((code, body)) = fault.and_then(Fault::refusal) {
            return answer(code, &body);
        }
        match fault {
            Some(Fault::Lost) => std::future::pending().await,
            Some(Fault::Late(wait)) => {
                // Done even if nobody waits for it any more.
                let server = self.clone();
                let done = tokio::spawn(async move {
                    sleep(wait).await;
                    server.0.lock().answer(&call)
                });
                done.await.expect("it does not panic")
            }
            fault => {
                let answer = self.0.lock().answer(&call);
                match fault {
                    Some(Fault::Unanswered) => std::future::pending().await,
                    Some(Fault::Slow(wait)) => sleep(wait).await,
                    _ => {}
                }
                answer
            }
        }
    }
}

impl State {
    fn note(&mut self, call: &Call) -> Option<Fault> {
        self.calls.push(call.clone());
        let text = call.to_string();
        let planned = self
            .faults
            .iter()
            .position(|(what, _)| text.starts_with(what.as_str()));
        match planned {
            Some(at) => Some(self.faults.remove(at).1),
            None => self.chaos.as_mut().and_then(|chaos| chaos(call)),
        }
    }

    fn answer(&mut self, call: &Call) -> Response<Body> {
        if call.verb == "watch" {
            return self.watch(call.clone());
        }
        let result = match call.verb {
            "list" => Ok(self.list(call)),
            "get" => self.found(call).map(|object| call.shown(object)),
            "create" => self.create(call),
            "update" => self.update(call),
            "patch" => self.patch(call),
            "delete" => self.delete(call),
            verb => panic!("nobody serves {verb}"),
        };
        match result {
            Ok(body) => answer(200, &body),
            Err(code) => answer(code, &status(code, &format!("{call}: {code}"))),
        }
    }

    fn found(&self, call: &Call) -> Result<Value, u16> {
        self.objects.get(&id(call)).cloned().ok_or(404)
    }

    fn list(&self, call: &Call) -> Value {
        let items: Vec<Value> = self
            .objects
            .iter()
            .filter(|((resource, _, _), object)| {
                call.resource == *resource && call.concerns(object)
            })
            .map(|(_, object)| call.shown(object.clone()))
            .collect();
        json!({
            "apiVersion": "v1",
            "kind": "List",
            "metadata": { "resourceVersion": self.version.to_string() },
            "items": items,
        })
    }

    fn watch(&mut self, call: Call) -> Response<Body> {
        let since = call
            .query
            .get("resourceVersion")
            .and_then(|version| version.parse().ok());
        let (events, mut stream) = mpsc::unbounded_channel();
        let watch = Watch { call, events };
        for (_, change) in self
            .history
            .iter()
            .filter(|(version, _)| Some(*version) > since)
        {
            watch.tell(change);
        }
        self.watches.push(watch);
        let stream = futures_util::stream::poll_fn(move |task| stream.poll_recv(task));
        Response::new(Body::from_stream(stream.map(Ok::<_, Infallible>)))
    }

    fn create(&mut self, call: &Call) -> Result<Value, u16> {
        let mut object = call.body.clone();
        object["metadata"]["namespace"] = call.namespace.clone().into();
        let name = object["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let id = (call.resource.clone(), call.namespace.clone(), name);
        match self.objects.contains_key(&id) {
            true => Err(409),
            false => Ok(self.store(&id, object)),
        }
    }

    fn update(&mut self, call: &Call) -> Result<Value, u16> {
        let before = self.found(call)?;
        let expected = &call.body["metadata"]["resourceVersion"];
        match expected.is_null() || expected == &before["metadata"]["resourceVersion"] {
            true => Ok(self.store(&id(call), call.body.clone())),
            false => Err(409),
        }
    }

    fn patch(&mut self, call: &Call) -> Result<Value, u16> {
        let before = self.objects.get(&id(call)).cloned();
        let after = match (call.merges, before) {
            (true, None) => return Err(404),
            (true, Some(before)) => {
                let uid = &call.body["metadata"]["uid"];
                if !uid.is_null() && *uid != before["metadata"]["uid"] {
                    return Err(409);
                }
                let mut after = before;
                merge_patch(&mut after, &call.body);
                after
            }
            (false, before) => {
                self.may_apply(before.as_ref(), call)?;
                apply(before, call)
            }
        };
        Ok(self.store(&id(call), after))
    }

    /// The object must be the one that the caller means, and without force no field may be
    /// somebody else's.
    fn may_apply(&self, before: Option<&Value>, call: &Call) -> Result<(), u16> {
        let uid = &call.body["metadata"]["uid"];
        let is_another = |before: &Value| !uid.is_null() && *uid != before["metadata"]["uid"];
        if before.is_some_and(is_another) {
            return Err(422);
        }
        let manager = call.query.get("fieldManager").map(String::as_str);
        let is_forced = call.query.get("force").is_some_and(|force| force == "true");
        let is_own = before.is_none_or(|before| {
            before["metadata"]["managedFields"][0]["manager"].as_str() == manager
        });
        match is_forced || is_own {
            true => Ok(()),
            false => Err(409),
        }
    }

    fn delete(&mut self, call: &Call) -> Result<Value, u16> {
        let object = self.found(call)?;
        let uid = &call.body["preconditions"]["uid"];
        if !uid.is_null() && *uid != object["metadata"]["uid"] {
            return Err(409);
        }
        self.remove(&id(call));
        Ok(json!({ "apiVersion": "v1", "kind": "Status", "status": "Success" }))
    }

    /// Stores an object, and tells of it, unless nothing about it is new.
    fn store(&mut self, id: &Id, mut object: Value) -> Value {
        let before = self.objects.get(id);
        let metadata =
            |field: &str| before.map_or(Value::Null, |object| object["metadata"][field].clone());
        let (version, uid, generation) = (
            metadata("resourceVersion"),
            metadata("uid"),
            metadata("generation"),
        );
        let same_spec = before.is_some_and(|before| before["spec"] == object["spec"]);
        let generation = generation.as_i64().unwrap_or(0) + i64::from(!same_spec);
        self.version += 1;
        let fresh = format!("uid-{}", self.version);
        object["metadata"]["uid"] = match uid {
            Value::Null => fresh.into(),
            uid => uid,
        };
        object["metadata"]["generation"] = generation.into();
        object["metadata"]["resourceVersion"] = version;
        if before == Some(&object) {
            return object;
        }
        let kind = if before.is_some() {
            "MODIFIED"
        } else {
            "ADDED"
        };
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.objects.insert(id.clone(), object.clone());
        self.tell(kind, &id.0, object.clone());
        object
    }

    fn remove(&mut self, id: &Id) {
        if let Some(mut object) = self.objects.remove(id) {
            self.version += 1;
            object["metadata"]["resourceVersion"] = self.version.to_string().into();
            self.tell("DELETED", &id.0, object);
        }
    }

    fn tell(&mut self, kind: &'static str, resource: &str, object: Value) {
        let change = Change {
            kind,
            resource: resource.to_owned(),
            object,
        };
        self.watches.iter().for_each(|watch| watch.tell(&change));
        self.history.push((self.version, change));
    }
}

impl Watch {
    fn tell(&self, change: &Change) {
        if self.call.resource == change.resource && self.call.concerns(&change.object) {
            let object = self.call.shown(change.object.clone());
            let event = json!({ "type": change.kind, "object": object });
            // Nobody hears it once the watch has been dropped.
            let _ = self.events.send(format!("{event}\n"));
        }
    }
}

/// Server-side apply by force, with what the API server adds of its own.
fn apply(before: Option<Value>, call: &Call) -> Value {
    let set = set_of(&call.body);
    let manager = call
        .query
        .get("fieldManager")
        .expect("apply needs a manager");
    let mut object = before.unwrap_or_else(|| json!({ "metadata": {} }));
    let managed = object["metadata"]["managedFields"].take();
    drop_gone("", &mut object, &managed[0]["fieldsV1"], &set);
    merge("", &mut object, &call.body);
    canonical(&mut object);
    if let Some(pod) = object.pointer_mut("/spec/template/spec") {
        pod["restartPolicy"] = "Always".into();
        pod["dnsPolicy"] = "ClusterFirst".into();
    }
    object["metadata"]["managedFields"] = json!([
        { "manager": manager, "operation": "Apply", "fieldsV1": set },
    ]);
    object
}

/// Writes quantities as the API server does.
fn canonical(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(canonical),
        Value::Array(items) => items.iter_mut().for_each(canonical),
        Value::String(text) if text == "1000m" => *text = "1".into(),
        _ => {}
    }
}

fn id(call: &Call) -> Id {
    let resource = call.resource.split('/').next().unwrap_or_default();
    (
        resource.to_owned(),
        call.namespace.clone(),
        call.name.clone(),
    )
}

fn answer(code: u16, body: &Value) -> Response<Body> {
    let answer = Response::builder()
        .status(code)
        .header("content-type", "application/json");
    answer
        .body(Body::from(body.to_string()))
        .expect("an answer")
}
