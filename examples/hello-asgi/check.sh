expect 200 '{"message":"Hello, Ada!"}' '/hello-asgi?name=Ada'
expect 201 '"next_year":37' /hello-asgi/people --json '{"name":"Ada","age":36}'
expect 422 'int_parsing' /hello-asgi/people --json '{"name":"Ada","age":"many"}'
