expect 200 '{"message":"Hello, world!"}' /hello-express
expect 201 '{"received":{"to":"do"}}' /hello-express --json '{"to":"do"}'
expect 200 'long long long' /hello-express/long --compressed
expect 404 'Cannot GET /hello-express/none' /hello-express/none
