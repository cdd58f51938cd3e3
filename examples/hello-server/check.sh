expect 200 'Hello from a server of its own: /hello-server?a=1' '/hello-server?a=1'
