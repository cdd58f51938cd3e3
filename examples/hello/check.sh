expect 200 '{"message":"Hello, world!"}' /hello
expect 200 '{"message":"Hello, Ada!"}' '/hello?name=Ada'
expect 404 '"code":"route_not_found"' /nothing-here
