expect 200 'Hello, fetch!' /hello-fetch
expect 201 '{"message":"Hello, Ada!"}' /hello-fetch --json '{"name":"Ada"}'
expect 405 '"code":"method_not_allowed"' /hello-fetch --request DELETE
