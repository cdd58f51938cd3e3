expect 200 'Good morning, Ada and Grace!' /hello-esm
expect 404 '"code":"route_not_found"' /hello-esm/deeper
