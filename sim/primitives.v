// Bodies of the vendor primitives that core.v instantiates, for simulation only. Each is held against its portable twin.

// 18 x 18 multiplier. Every register is there when its clock parameter says "CLK0", and a wire otherwise.
module MULT18X18D #(
    parameter REG_INPUTA_CLK = "NONE",
    parameter REG_INPUTB_CLK = "NONE",
    parameter REG_PIPELINE_CLK = "NONE",
    parameter REG_OUTPUT_CLK = "NONE"
) (
    input A0, A1, A2, A3, A4, A5, A6, A7, A8, A9, A10, A11, A12, A13, A14, A15, A16, A17,
    input B0, B1, B2, B3, B4, B5, B6, B7, B8, B9, B10, B11, B12, B13, B14, B15, B16, B17,
    input SIGNEDA, SIGNEDB, SOURCEA, SOURCEB, CLK0, CE0, RST0,
    output P0, P1, P2, P3, P4, P5, P6, P7, P8, P9, P10, P11, P12, P13, P14, P15, P16, P17,
    output P18, P19, P20, P21, P22, P23, P24, P25, P26, P27, P28, P29, P30, P31, P32, P33, P34, P35
);
    wire [17:0] a = {A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0};
    wire [17:0] b = {B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0};
    reg [17:0] a_held, b_held;
    reg [35:0] pipeline_held, output_held;
    wire [17:0] a_used = REG_INPUTA_CLK == "CLK0" ? a_held : a;
    wire [17:0] b_used = REG_INPUTB_CLK == "CLK0" ? b_held : b;
    wire signed [35:0] a_wide = {{18{SIGNEDA & a_used[17]}}, a_used};
    wire signed [35:0] b_wide = {{18{SIGNEDB & b_used[17]}}, b_used};
    wire [35:0] product = a_wide * b_wide;
    wire [35:0] pipeline = REG_PIPELINE_CLK == "CLK0" ? pipeline_held : product;
    assign {P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18,
            P17, P16, P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0}
        = REG_OUTPUT_CLK == "CLK0" ? output_held : pipeline;
    always @(posedge CLK0)
        if (RST0) begin
            a_held <= 0;
            b_held <= 0;
            pipeline_held <= 0;
            output_held <= 0;
        end else if (CE0) begin
            a_held <= a;
            b_held <= b;
            pipeline_held <= product;
            output_held <= pipeline;
        end
endmodule

// What gated_adder.v builds of carry cells.
module GATED_ADDER #(parameter WIDTH = 8, parameter SUBTRACT = 0) (
    input [WIDTH-1:0] A, B,
    input X, Y,
    output [WIDTH-1:0] S
);
    wire [WIDTH-1:0] a = X ? A : 0, b = Y ? B : 0;
    assign S = SUBTRACT ? b - a : b + a;
endmodule
