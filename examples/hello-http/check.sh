expect 200 'Hello from GET /hello-http' /hello-http
expect 200 'Hello from PUT /hello-http/deeper?a=1' '/hello-http/deeper?a=1' --request PUT --data x
