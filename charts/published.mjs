// Validates objects (a JSON array on standard input) by the schemas that their projects publish, as the packages of @kubernetes-models have them:
// for kinds that no API server of the tests defines. charts/check.py copies it beside the packages.
import { readFileSync } from "node:fs";
import { HTTPRoute } from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/HTTPRoute";
import { ServiceMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor";

const kinds = { HTTPRoute, ServiceMonitor };
for (const object of JSON.parse(readFileSync(0, "utf8"))) {
  const known = new kinds[object.kind](object);
  if (known.apiVersion !== object.apiVersion) throw new Error(`${object.kind} is of ${known.apiVersion}, and not of ${object.apiVersion}`);
  known.validate();
}
