//! Ten objects an application, as they stand on EKS: what is AWS's own and what is not, side by side.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

/// Objects of one application.
pub const OBJECTS: usize = 10;

/// How the objects lie in the folder.
#[derive(Clone, Copy)]
pub enum Shape {
    /// A file an application.
    Files,
    /// A file an object.
    SmallFiles,
    /// All documents in one file.
    OneFile,
    /// One List, as `kubectl get -o yaml` prints it.
    List,
}

impl Shape {
    /// By its name on the command line.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "files" => Self::Files,
            "small-files" => Self::SmallFiles,
            "one-file" => Self::OneFile,
            "list" => Self::List,
            _ => return None,
        })
    }
}

/// Writes `applications` times [`OBJECTS`] objects into `folder`; returns their bytes.
pub fn write(folder: &Path, shape: Shape, applications: usize) -> io::Result<usize> {
    let all: Vec<Vec<String>> = (0..applications).map(application).collect();
    let files: Vec<(String, String)> = match shape {
        Shape::Files => all
            .iter()
            .enumerate()
            .map(|(at, objects)| (format!("app-{at}.yaml"), objects.join("---\n")))
            .collect(),
        Shape::SmallFiles => {
            let each = all.into_iter().flatten().enumerate();
            each.map(|(at, object)| (format!("object-{at}.yaml"), object)).collect()
        }
        Shape::OneFile => vec![("all.yaml".to_owned(), all.concat().join("---\n"))],
        Shape::List => {
            let mut text = "apiVersion: v1\nkind: List\nitems:\n".to_owned();
            for object in all.iter().flatten() {
                for (at, line) in object.lines().enumerate() {
                    let _ = writeln!(text, "{}{line}", if at == 0 { "- " } else { "  " });
                }
            }
            vec![("all.yaml".to_owned(), text)]
        }
    };
    let mut bytes = 0;
    for (name, text) in files {
        bytes += text.len();
        std::fs::write(folder.join(name), text)?;
    }
    Ok(bytes)
}

/// Applications stand in twenty namespaces, and each calls the one before it.
fn application(at: usize) -> Vec<String> {
    let (namespace, name, before) = (format!("team-{}", at % 20), format!("app-{at}"), at.saturating_sub(1));
    let needed = format!("app-{before}.team-{}", before % 20);
    let fill = |text: &str| {
        let text = text.replace("NAMESPACE", &namespace).replace("NEEDED", &needed);
        text.trim_start_matches('\n').replace("NAME", &name)
    };
    TEMPLATES.iter().map(|text| fill(text)).collect()
}

const TEMPLATES: [&str; OBJECTS] = [
    r#"
apiVersion: v1
kind: ServiceAccount
metadata:
  name: NAME
  namespace: NAMESPACE
  annotations:
    eks.amazonaws.com/role-arn: arn:aws:iam::123456789012:role/NAME
"#,
    r#"
apiVersion: apps/v1
kind: Deployment
metadata:
  name: NAME
  namespace: NAMESPACE
  labels: { app.kubernetes.io/name: NAME, app.kubernetes.io/part-of: shop }
spec:
  replicas: 3
  selector:
    matchLabels: { app.kubernetes.io/name: NAME }
  template:
    metadata:
      labels: { app.kubernetes.io/name: NAME, app.kubernetes.io/part-of: shop }
      annotations:
        prometheus.io/scrape: "true"
    spec:
      serviceAccountName: NAME
      nodeSelector:
        eks.amazonaws.com/nodegroup: workers # where the disks are
      affinity:
        nodeAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            nodeSelectorTerms:
              - matchExpressions:
                  - { key: topology.kubernetes.io/zone, operator: In, values: [us-east-1a, us-east-1b] }
      containers:
        - name: app
          image: 123456789012.dkr.ecr.us-east-1.amazonaws.com/shop/NAME:1.2.3
          ports:
            - { name: http, containerPort: 8080 }
          env:
            - { name: AWS_REGION, value: us-east-1 }
            - { name: QUEUE, value: "https://sqs.us-east-1.amazonaws.com/123456789012/NAME" }
            - { name: UPSTREAM, value: "http://NEEDED.svc:8080/v1" }
            - name: PASSWORD
              valueFrom: { secretKeyRef: { name: NAME, key: password } }
          envFrom:
            - configMapRef: { name: NAME }
          volumeMounts:
            - { name: data, mountPath: /data }
          readinessProbe:
            httpGet: { path: /ready, port: http }
            periodSeconds: 5
          resources:
            requests: { cpu: 100m, memory: 128Mi }
            limits: { memory: 256Mi }
          securityContext:
            allowPrivilegeEscalation: false
            capabilities: { drop: [ALL] }
      volumes:
        - name: data
          persistentVolumeClaim: { claimName: NAME }
"#,
    r#"
apiVersion: v1
kind: Service
metadata:
  name: NAME
  namespace: NAMESPACE
  annotations:
    service.beta.kubernetes.io/aws-load-balancer-scheme: internal
spec:
  type: LoadBalancer
  selector: { app.kubernetes.io/name: NAME }
  ports:
    - { name: http, port: 8080, targetPort: http }
"#,
    r#"
apiVersion: v1
kind: ConfigMap
metadata:
  name: NAME
  namespace: NAMESPACE
data:
  topic: arn:aws:sns:us-east-1:123456789012:NAME
  application.properties: |
    server.port=8080
    logging.level.root=INFO
    management.endpoints.web.exposure.include=health,info
"#,
    r#"
apiVersion: v1
kind: Secret
metadata:
  name: NAME
  namespace: NAMESPACE
type: Opaque
data:
  password: aHVudGVyMg==
"#,
    r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: NAME
  namespace: NAMESPACE
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: gp3
  resources:
    requests:
      storage: 20Gi
"#,
    r#"
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: NAME
  namespace: NAMESPACE
  annotations:
    alb.ingress.kubernetes.io/scheme: internet-facing
    alb.ingress.kubernetes.io/target-type: ip
    alb.ingress.kubernetes.io/healthcheck-path: /ready
spec:
  ingressClassName: alb
  rules:
    - host: NAME.example.com
      http:
        paths:
          - path: /*
            pathType: ImplementationSpecific
            backend:
              service: { name: NAME, port: { name: http } }
"#,
    r#"
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: NAME
  namespace: NAMESPACE
spec:
  scaleTargetRef: { apiVersion: apps/v1, kind: Deployment, name: NAME }
  minReplicas: 3
  maxReplicas: 10
  metrics:
    - type: Resource
      resource: { name: cpu, target: { type: Utilization, averageUtilization: 70 } }
"#,
    r#"
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: NAME
  namespace: NAMESPACE
spec:
  minAvailable: 2
  selector:
    matchLabels: { app.kubernetes.io/name: NAME }
"#,
    r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: NAME
  namespace: NAMESPACE
spec:
  podSelector:
    matchLabels: { app.kubernetes.io/name: NAME }
  ingress:
    - from:
        - podSelector: { matchLabels: { app.kubernetes.io/part-of: shop } }
      ports:
        - { port: 8080 }
"#,
];
